//! A wall clock for one process, thrown to and fro while it runs: libfaketime, loaded before the C library, answers for it. Other
//! clocks go on as they do, and so does the machine's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The clock. What it says stands in a file.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Clock {
    /// A clock that is right, with its file in this folder.
    pub fn new(folder: &Path) -> Self {
        let file = folder.join("clock");
        let environment = vec![
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            // It reads the file at every look at the clock, and leaves alone what else it could change.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        let this = Self { file, environment };
        this.set_right();
        this
    }

    /// What a process needs in its environment.
    pub fn environment(&self) -> Vec<(&str, &str)> {
        let pairs = self.environment.iter();
        pairs.map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// The clock says the second day of this year, and goes on.
    pub fn set_year(&self, year: u32) {
        let days = (1970..year)
            .map(|year| if year % 4 == 0 { 366 } else { 365 })
            .sum::<u64>()
            + 1;
        let wanted = Duration::from_hours(24 * days);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let offset = wanted.as_secs_f64() - now.as_secs_f64();
        self.write(&format!("{offset:+.0}"));
    }

    /// The clock is right.
    pub fn set_right(&self) {
        self.write("+0");
    }

    /// Whoever looks meanwhile sees the one or the other.
    fn write(&self, offset: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }
}

/// The library, as Debian has it.
fn library() -> PathBuf {
    let found = fs::read_dir("/usr/lib").unwrap().find_map(|entry| {
        let library = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    });
    found.expect("libfaketime is not here: run `make setup` (apt-get install faketime)")
}
