//! Tells the agent what host-local reserved, before the agent gives the first address of a network that is new to it.
//!
//! ```text
//! ADD ──▶ takeover (the answer) ──▶ TAKEOVER, TAKEOVER, … done ──▶ ok each ──▶ ADD
//! ```

use std::path::Path;

use cadastre_messages::{MAX_LINE, Reservation, TakeOver};

use crate::error::Error;
use crate::host_local::{self, Reserved};

/// Bytes of a line that reservations may fill; the rest is for what surrounds them and for the places of the searches.
const ROOM: usize = MAX_LINE / 2;

/// The lines to send: at least one, the last says that nothing more follows.
pub fn lines(folder: &Path, network: &str) -> Result<Vec<TakeOver>, Error> {
    host_local::read(folder, network).map(|reserved| split(network, reserved))
}

fn split(network: &str, reserved: Reserved) -> Vec<TakeOver> {
    let line = || TakeOver { network: network.to_owned(), reservations: vec![], last: vec![], done: false };
    let Reserved { reservations, last } = reserved;
    let (mut lines, mut current, mut filled) = (Vec::new(), line(), 0);
    // What an attachment holds is told in one line: the agent takes one that it knows already for its own.
    for held in reservations.chunk_by(|one, next| one.attachment == next.attachment) {
        let length: usize = held.iter().map(length).sum();
        if filled + length > ROOM && filled > 0 {
            lines.push(std::mem::replace(&mut current, line()));
            filled = 0;
        }
        filled += length;
        current.reservations.extend_from_slice(held);
    }
    lines.push(TakeOver { last, done: true, ..current });
    lines
}

/// Of its JSON, with a comma.
fn length(reservation: &Reservation) -> usize {
    serde_json::to_vec(reservation).map_or(ROOM, |json| json.len() + 1)
}

#[cfg(test)]
mod tests {
    use cadastre_messages::{Attachment, Call, LastReserved, Request};

    use super::*;
    use crate::netns;

    fn reserved(count: usize) -> Reserved {
        let reservation = |number: usize| Reservation {
            address: format!("10.1.{}.{}", number / 256, number % 256),
            attachment: Attachment {
                network: "net".into(),
                container_id: format!("{number:064}"),
                interface: "eth0".into(),
            },
            netns: netns::unknown(),
            pod: None,
        };
        let last = vec![LastReserved { set: 0, address: "10.1.0.5".into() }];
        Reserved { reservations: (0..count).map(reservation).collect(), last }
    }

    #[test]
    fn nothing_is_one_line_that_says_so() {
        let expected = TakeOver { network: "net".into(), reservations: vec![], last: vec![], done: true };
        assert_eq!(split("net", Reserved::default()), [expected]);
    }

    #[test]
    fn both_families_of_an_attachment_are_in_one_line() {
        let Reserved { reservations, last } = reserved(300);
        let v6 = |reservation: &Reservation| Reservation { address: "fd00::1".into(), ..reservation.clone() };
        let reservations = reservations.iter().flat_map(|reservation| [reservation.clone(), v6(reservation)]).collect();
        let lines = split("net", Reserved { reservations, last });
        assert!(lines.len() > 2);
        for line in lines.iter().filter(|line| !line.reservations.is_empty()) {
            assert!(
                line.reservations.chunks(2).all(|pair| pair.len() == 2 && pair[0].attachment == pair[1].attachment)
            );
        }
    }

    #[test]
    fn every_reservation_is_in_one_line_that_fits() {
        let all = reserved(5_000);
        let lines = split("net", reserved(5_000));
        assert!(lines.len() > 10);
        let (last, others) = lines.split_last().unwrap();
        assert!(last.done && last.last == all.last);
        assert!(others.iter().all(|line| !line.done && line.last.is_empty() && !line.reservations.is_empty()));
        assert_eq!(lines.iter().flat_map(|line| line.reservations.clone()).collect::<Vec<_>>(), all.reservations);
        for line in lines {
            assert!(serde_json::to_vec(&Request::new(Call::TakeOver(line))).unwrap().len() < MAX_LINE);
        }
    }
}
