//! The journal's file: what is asked of the file system, and what is known of its answers.
//!
//! Writes go to a place, not to the end, and what a failed write left is cut off before the next: nothing half written
//! stays in the middle. In tests a limit stands for a full or broken disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

#[derive(Debug)]
pub struct Disk {
    file: File,
    /// Up to here a write needs no more room.
    allocated: u64,
    /// The file system knows no allocation ahead.
    cannot_allocate: bool,
    /// A failed write left something that could not be cut off.
    torn: bool,
    limit: Limit,
}

impl Disk {
    pub fn new(file: File, limit: &Limit) -> Self {
        Self { file, allocated: 0, cannot_allocate: false, torn: false, limit: limit.clone() }
    }

    /// Makes sure that the file can grow to `end`, and more if that costs nothing.
    pub fn allocate(&mut self, end: u64, chunk: u64) -> io::Result<()> {
        if end <= self.allocated || self.cannot_allocate {
            return Ok(());
        }
        let asked = self.try_allocate(end + chunk).map(|()| end + chunk);
        match asked.or_else(|_| self.try_allocate(end).map(|()| end)) {
            Ok(allocated) => self.allocated = allocated,
            Err(Errno::NOTSUP | Errno::NOSYS) => self.cannot_allocate = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn try_allocate(&self, end: u64) -> Result<(), Errno> {
        self.limit.check(end, 0)?;
        fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.allocated, end - self.allocated)
    }

    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let bytes = match self.limit.check(offset + bytes.len() as u64, self.allocated) {
            Ok(()) => bytes,
            Err(full) => {
                let fits = self.limit.end(self.allocated).saturating_sub(offset).min(bytes.len() as u64);
                self.torn = true;
                self.file.write_all_at(&bytes[..usize::try_from(fits).unwrap_or_default()], offset)?;
                return Err(full.into());
            }
        };
        let written = self.file.write_all_at(bytes, offset);
        self.torn |= written.is_err();
        written
    }

    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// Cuts off what lies behind `len`, and with it what was allocated there.
    pub fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.torn = true;
        self.file.set_len(len)?;
        self.torn = false;
        self.allocated = 0;
        Ok(())
    }

    /// Device and inode.
    pub fn identity(&self) -> Option<(u64, u64)> {
        self.file.metadata().ok().map(|file| (file.dev(), file.ino()))
    }

    /// Writes from the start.
    pub fn writer(&self) -> impl Write + '_ {
        Writer { disk: self, offset: 0 }
    }
}

struct Writer<'a> {
    disk: &'a Disk,
    offset: u64,
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.limit.check(self.offset + bytes.len() as u64, 0)?;
        let written = self.disk.file.write_at(bytes, self.offset)?;
        self.offset += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a test's file system refuses; shared with the file written aside. Outside tests it refuses nothing.
#[derive(Clone, Debug, Default)]
pub struct Limit {
    #[cfg(test)]
    refuses: std::sync::Arc<std::sync::Mutex<Refuses>>,
}

#[cfg(test)]
#[derive(Clone, Copy, Debug, Default)]
pub enum Refuses {
    #[default]
    Nothing,
    /// The disk is full: no file grows beyond this, unless it was allocated before.
    Beyond(u64),
    /// The file system does not keep what it promised, either.
    EvenAllocated(u64),
}

#[cfg(not(test))]
impl Limit {
    const fn end(&self, _allocated: u64) -> u64 {
        let _ = self;
        u64::MAX
    }
}

#[cfg(test)]
impl Limit {
    pub fn set(&self, refuses: Refuses) {
        *self.refuses.lock().unwrap() = refuses;
    }

    fn end(&self, allocated: u64) -> u64 {
        match *self.refuses.lock().unwrap() {
            Refuses::Nothing => u64::MAX,
            Refuses::Beyond(size) => size.max(allocated),
            Refuses::EvenAllocated(size) => size,
        }
    }
}

impl Limit {
    fn check(&self, end: u64, allocated: u64) -> Result<(), Errno> {
        if end > self.end(allocated) { Err(Errno::NOSPC) } else { Ok(()) }
    }
}
