//! The outlook as people read it.

use std::fmt::{self, Display};

use crate::plan::outlook::{BlockChangeKind, Change, HeldBy, NodeChange, Outlook};

/// Names that are written out before the rest is counted; `-o json` has all.
const NAMED: usize = 10;

impl Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show_mode(f)?;
        table(f, ["NODE", "IPAMNODE", "BLOCKS"], self.nodes.iter().map(NodeChange::cells))?;
        let waiting = self.waiting.iter().map(|node| [node.node.clone(), node.reason.clone(), node.message.clone()]);
        table(f, ["WAITING NODE", "REASON", "WHY, AND WHAT TO DO"], waiting)?;
        self.show_blocks(f)?;
        let cidrs = self.cidrs.iter().map(|cidr| {
            let change = match cidr.change {
                Change::Create => "is added",
                Change::Update => "changes its block size",
                Change::Delete => "is removed",
            };
            [cidr.cidr.to_string(), cidr.pool.clone(), format!("/{}", cidr.mask_size), change.to_owned()]
        });
        table(f, ["CIDR", "POOL", "BLOCKS OF", "CHANGE"], cidrs)?;
        self.refused.iter().try_for_each(|refused| writeln!(f, "refused ({}): {}", refused.kind, refused.message))?;
        self.held_by.iter().try_for_each(|held| writeln!(f, "{held}"))?;
        self.show_sum(f)
    }
}

impl Outlook {
    fn show_mode(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { configured_mode, recorded_mode, mode_in_force, recovery, .. } = self;
        let force = mode_in_force.unwrap_or(*configured_mode);
        match recorded_mode {
            None => writeln!(f, "mode {force}: would be recorded, nothing is yet")?,
            Some(recorded) if *recorded != force => {
                writeln!(f, "mode {force}: would be recorded in place of {recorded}")?;
            }
            Some(_) => writeln!(f, "mode {force}, as recorded")?,
        }
        if let Some(silent) = recovery {
            let who = if silent.is_empty() { String::new() } else { format!(": {}", some(silent.iter())) };
            writeln!(
                f,
                "recovery: nothing is assigned until the agents of all Ready nodes have said what they hold, 2 minutes at most; {} to come{who}",
                silent.len()
            )?;
        }
        Ok(())
    }

    /// Who gets a block stands with the nodes.
    fn show_blocks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.blocks.iter().filter_map(|block| {
            let change = match block.change {
                BlockChangeKind::Assign => return None,
                BlockChangeKind::Cool => "cools",
                BlockChangeKind::Free => "is freed",
            };
            Some([block.block.to_string(), block.pool.clone(), block.node.clone(), change.to_owned()])
        });
        table(f, ["BLOCK", "POOL", "OF NODE", "CHANGE"], rows)
    }

    fn show_sum(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = |change| self.nodes.iter().filter(|node| node.change == change).count();
        let blocks = |change| self.blocks.iter().filter(|block| block.change == change).count();
        writeln!(
            f,
            "IPAMNodes: {} to create, {} to update, {} to delete; nodes waiting: {}; blocks: {} to assign, {} to cool, {} to free",
            nodes(Change::Create),
            nodes(Change::Update),
            nodes(Change::Delete),
            self.waiting.len(),
            blocks(BlockChangeKind::Assign),
            blocks(BlockChangeKind::Cool),
            blocks(BlockChangeKind::Free),
        )
    }
}

impl NodeChange {
    fn cells(&self) -> [String; 3] {
        let change = match self.change {
            Change::Create => "create",
            Change::Update => "update",
            Change::Delete => "delete",
        };
        let signed = |sign: &'static str, blocks: &[cadastre_core::Cidr]| {
            blocks.iter().map(|block| format!("{sign}{block}")).collect::<Vec<_>>()
        };
        let retires = self.retires.iter().map(|block| format!("{block} retires")).collect();
        let blocks = [signed("+", &self.gets), signed("-", &self.loses), retires].concat().join(" ");
        [self.node.clone(), change.to_owned(), blocks]
    }
}

impl Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cidr {
            Some(cidr) => write!(f, "  {cidr} is held by ")?,
            None => write!(f, "  blocks are held by ")?,
        }
        write!(f, "{} nodes: {}", self.nodes.len(), some(self.nodes.iter()))
    }
}

fn some<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first = names.take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// Columns as wide as their widest cell, the last one as it comes; nothing if there are no rows.
fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let rows: Vec<_> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    if rows.len() == 1 {
        return Ok(());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let line =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("   ");
        writeln!(f, "{}", line.trim_end())?;
    }
    writeln!(f)
}
