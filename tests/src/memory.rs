//! The whole memory of a process, as it stands at one moment.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::needles::{Finder, Hit, Needles};

/// Every readable page of a process.
#[derive(Default)]
pub struct Memory {
    regions: Vec<Region>,
}

/// Pages in a row with one origin.
struct Region {
    /// The line of `/proc/PID/maps`.
    line: String,
    bytes: Vec<u8>,
}

/// A secret in memory.
pub struct Found {
    /// Which, and where in the region.
    pub hit: Hit,
    /// The region's line in `/proc/PID/maps`.
    pub region: String,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.hit, self.region)
    }
}

impl Memory {
    /// What of the needles is in there.
    pub fn find(&self, finder: &Finder<'_>) -> Vec<Found> {
        let mut found = Vec::new();
        for region in &self.regions {
            found.extend(finder.find(&region.bytes).into_iter().map(|hit| Found {
                hit,
                region: region.line.clone(),
            }));
        }
        found
    }

    /// Whether some bytes are in there: shows that a search looked at the right memory.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        let mut needles = Needles::new();
        needles.add("marker", bytes);
        !self.find(&needles.finder()).is_empty()
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.regions.iter().map(|region| region.bytes.len()).sum()
    }

    /// Whether nothing was readable.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in {} regions", self.len(), self.regions.len())
    }
}

/// The way into a process's memory, opened while the process allows it.
///
/// The kernel asks for the right to look when `/proc/PID/mem` is *opened*: right after exec, when not even a program that
/// makes itself undumpable has run an instruction. Later only root may open it, and a tracer's `PTRACE_PEEKDATA` fails too.
pub(crate) struct Access {
    maps: File,
    memory: File,
}

impl Access {
    pub(crate) fn open(pid: i32) -> Self {
        let open = |name: &str| {
            File::open(format!("/proc/{pid}/{name}"))
                .unwrap_or_else(|error| panic!("/proc/{pid}/{name} cannot be opened: {error}"))
        };
        Self {
            maps: open("maps"),
            memory: open("mem"),
        }
    }

    /// At most `limit` bytes from an address on, as far as they are there.
    pub(crate) fn some(&self, address: u64, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit];
        let read = self.memory.read_at(&mut bytes, address).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    /// All that is readable now. The process must stand still.
    pub(crate) fn read(&mut self) -> Memory {
        let mut maps = String::new();
        self.maps.seek(SeekFrom::Start(0)).unwrap();
        self.maps.read_to_string(&mut maps).unwrap();
        // The kernel's own pages for clocks and old system calls cannot be read, and hold nothing of the process.
        let readable = maps.lines().filter(|line| {
            let kernels = line.ends_with("[vsyscall]") || line.contains("[vvar");
            line.split(' ').nth(1).is_some_and(|mode| mode.starts_with('r')) && !kernels
        });
        let regions = readable.map(|line| {
            let (start, end) = range(line);
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            self.memory
                .read_exact_at(&mut bytes, start)
                .unwrap_or_else(|error| panic!("this memory cannot be read: {line}: {error}"));
            Region {
                line: line.to_owned(),
                bytes,
            }
        });
        Memory {
            regions: regions.collect(),
        }
    }
}

/// `START-END MODE …` in hex (`proc_pid_maps(5)`).
fn range(line: &str) -> (u64, u64) {
    let (start, rest) = line.split_once('-').unwrap();
    let (end, _) = rest.split_once(' ').unwrap();
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    (number(start), number(end))
}
