//! How a batch lies in the file, so that a batch that was being written can be told from one that was damaged.
//!
//! ```text
//! 4 bytes   4 bytes              4 bytes               length
//! length │ checksum of length │ checksum of payload │ payload: records, one behind the other
//! ```
//! The death of a process cuts a write short and changes nothing else. So a frame that is cut at the end of the file is
//! torn, if what is there of it is sound; everything else that does not fit is damage. A length that lies cannot pass for
//! a torn end, because it has a checksum of its own.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

const HEAD: usize = 12;

/// What is wrong at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It does not begin as a journal does.
    Magic,
    NoHeader,
    Length,
    Checksum,
    Record,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "it does not begin as a journal does",
            Self::NoHeader => "its header is incomplete",
            Self::Length => "the length of a batch is not what was written",
            Self::Checksum => "a batch is not what was written",
            Self::Record => "a batch holds something that is no record",
        })
    }
}

/// A frame that is being filled.
#[derive(Default)]
pub struct Growing {
    bytes: Vec<u8>,
}

impl Growing {
    pub fn push(&mut self, record: &impl Serialize) -> Result<(), postcard::Error> {
        if self.bytes.is_empty() {
            self.bytes.resize(HEAD, 0);
        }
        self.bytes = postcard::to_extend(record, std::mem::take(&mut self.bytes))?;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes it, unless it is empty, and begins anew. Returns the bytes written.
    pub fn write_to(&mut self, out: &mut impl Write) -> io::Result<u64> {
        if !self.bytes.is_empty() {
            seal(&mut self.bytes, 0);
            out.write_all(&self.bytes)?;
        }
        let len = self.bytes.len() as u64;
        self.bytes.clear();
        Ok(len)
    }
}

/// Appends a frame of `records` to `buffer`.
pub fn push<'a, R: Serialize + 'a>(
    buffer: &mut Vec<u8>,
    records: impl Iterator<Item = &'a R>,
) -> Result<(), postcard::Error> {
    let start = buffer.len();
    buffer.resize(start + HEAD, 0);
    for record in records {
        *buffer = postcard::to_extend(record, std::mem::take(buffer))?;
    }
    seal(buffer, start);
    Ok(())
}

/// Fills in the head of the frame that begins at `start` and ends with the buffer.
fn seal(buffer: &mut [u8], start: usize) {
    let (head, payload) = buffer[start..].split_at_mut(HEAD);
    // No batch comes near 4 GiB: a line is at most 64 KiB, and a batch some hundred of them.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    head[..4].copy_from_slice(&length);
    head[4..8].copy_from_slice(&crc32fast::hash(&length).to_le_bytes());
    head[8..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
}

/// The payloads of the frames, up to a torn end. Offsets count from the start of the file.
pub struct Frames<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Frames<'a> {
    pub fn new(rest: &'a [u8], offset: usize) -> Self {
        Self { rest, offset }
    }

    /// Where the last whole frame ends.
    pub fn end(&self) -> usize {
        self.offset
    }

    fn read(&self) -> Result<Option<&'a [u8]>, Flaw> {
        let Some((head, rest)) = self.rest.split_first_chunk::<HEAD>() else { return Ok(None) };
        let ([length, of_length, of_payload], _) = head.as_chunks::<4>() else { return Ok(None) };
        if crc32fast::hash(length).to_le_bytes() != *of_length {
            return Err(Flaw::Length);
        }
        let Some(payload) = rest.get(..u32::from_le_bytes(*length) as usize) else { return Ok(None) };
        if crc32fast::hash(payload).to_le_bytes() != *of_payload {
            return Err(Flaw::Checksum);
        }
        Ok(Some(payload))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<(usize, &'a [u8]), (usize, Flaw)>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        match self.read() {
            Ok(None) => None,
            Ok(Some(payload)) => {
                self.rest = &self.rest[HEAD + payload.len()..];
                self.offset += HEAD + payload.len();
                Some(Ok((offset, payload)))
            }
            Err(flaw) => Some(Err((offset, flaw))),
        }
    }
}
