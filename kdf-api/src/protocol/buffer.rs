//! A growing buffer that leaves nothing behind when it moves.

use std::io::{self, Write};
use std::os::fd::AsFd;

use zeroize::{Zeroize, Zeroizing};

/// Bytes that may hold secrets: wiped when it grows, and when it goes.
///
/// Read from and written to descriptors directly: std's buffered stdin and stdout keep copies.
#[derive(Default)]
pub struct SecretBuffer(Zeroizing<Vec<u8>>);

/// What is read at once. Messages are shorter as a rule, and what is allocated is wiped byte by byte.
const CHUNK: usize = 4 * 1024;

impl SecretBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads to the end, at most `limit` bytes; `None` if there are more.
    pub fn read_all(source: impl AsFd, limit: usize) -> io::Result<Option<Self>> {
        let mut buffer = Self::new();
        let mut chunk = Zeroizing::new(vec![0; CHUNK]);
        loop {
            let count = rustix::io::retry_on_intr(|| rustix::io::read(&source, chunk.as_mut_slice()))?;
            if count == 0 {
                return Ok(Some(buffer));
            }
            buffer.append(chunk.get(..count).unwrap_or_default());
            if buffer.as_bytes().len() > limit {
                return Ok(None);
            }
        }
    }

    /// Writes everything to a descriptor.
    pub fn write_to(&self, target: impl AsFd) -> io::Result<()> {
        let mut rest = self.as_bytes();
        while !rest.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::write(&target, rest))?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// The content.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds bytes. The old place is wiped if they do not fit there.
    pub fn append(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two().max(1024)));
            larger.extend_from_slice(&self.0);
            std::mem::swap(&mut self.0, &mut larger);
        }
        self.0.extend_from_slice(bytes);
    }

    /// Wipes and empties it.
    pub fn clear(&mut self) {
        self.0.zeroize();
    }
}

impl Write for SecretBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for SecretBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBuffer(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn grows_and_reads_back() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let sent: Vec<u8> = (0..50_000_u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
        writer.write_all(&sent).unwrap();
        drop(writer);
        let read = SecretBuffer::read_all(&reader, 50_000).unwrap().unwrap();
        assert_eq!(read.as_bytes(), sent);
    }

    #[test]
    fn stops_at_the_limit() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[0; 11]).unwrap();
        drop(writer);
        assert!(SecretBuffer::read_all(&reader, 10).unwrap().is_none());
    }
}
