//! The `#!` line, read as the kernel reads it (`fs/binfmt_script.c`).
//!
//! The kernel would look the interpreter up by itself and run it unchecked. So we read the line, check the interpreter,
//! and run that.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// How far into a file the kernel looks (`BINPRM_BUF_SIZE`).
pub(super) const HEAD: usize = 256;

/// What a `#!` line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) interpreter: PathBuf,
    /// All that follows is one argument, blanks included.
    pub(super) argument: Option<OsString>,
}

impl Line {
    /// Reads the line from the first [`HEAD`] bytes of a file that starts with `#!`. The path is the script's, for messages.
    pub(super) fn read(head: &[u8], script: &Path) -> Result<Self> {
        let refuse = |what: &str| {
            Error::new(
                Code::Insecure,
                format!("{}: the #! line {what}", script.display()),
            )
        };
        let rest = head.strip_prefix(b"#!").ok_or_else(|| refuse("is missing"))?;
        let line = match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => rest.get(..end).unwrap_or_default(),
            None if head.len() < HEAD => rest,
            None => return Err(refuse("is longer than the 256 bytes that the kernel reads")),
        };
        if line.contains(&0) {
            return Err(refuse("has a NUL byte in it"));
        }
        if line.ends_with(b"\r") {
            return Err(
                refuse("ends with a carriage return").hint("save the file with Unix line ends (dos2unix)")
            );
        }
        let line = trim(line);
        let end = line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len());
        let (interpreter, argument) = line.split_at_checked(end).unwrap_or((line, b""));
        let argument = trim(argument);
        let line = Self {
            interpreter: PathBuf::from(OsStr::from_bytes(interpreter)),
            argument: (!argument.is_empty()).then(|| OsStr::from_bytes(argument).to_owned()),
        };
        if !line.interpreter.is_absolute() {
            return Err(refuse("does not name its interpreter by an absolute path"));
        }
        if line.interpreter.file_name() == Some(OsStr::new("env")) {
            return Err(
                refuse("leaves it to env to find the interpreter, which nobody then checks")
                    .hint(format!("write it as: {}", line.without_env())),
            );
        }
        Ok(line)
    }

    /// The same line with the interpreter that `env` would find in the path we give to programs.
    fn without_env(&self) -> String {
        let argument = self.argument.as_deref().unwrap_or_default().to_string_lossy();
        // `env -S` splits what follows; without it the whole is one name.
        let mut words = argument.split_whitespace().filter(|word| *word != "-S");
        let name = words.next().unwrap_or("INTERPRETER");
        let found = ["/usr/bin", "/bin"]
            .map(|folder| Path::new(folder).join(name))
            .into_iter()
            .find(|path| path.exists());
        let path = found.unwrap_or_else(|| Path::new("/path/to").join(name));
        let arguments: String = words.flat_map(|word| [" ", word]).collect();
        format!("#!{}{arguments}", path.display())
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Line> {
        let head = text.as_bytes();
        Line::read(head.get(..HEAD).unwrap_or(head), Path::new("/x/script"))
    }

    #[test]
    fn lines_are_read_as_the_kernel_reads_them() {
        for (text, interpreter, argument) in [
            ("#!/bin/sh\necho", "/bin/sh", None),
            ("#!/bin/sh", "/bin/sh", None),
            ("#! \t/bin/sh \t\n", "/bin/sh", None),
            ("#!/bin/sh -e\n", "/bin/sh", Some("-e")),
            ("#!/bin/sh  -e  -u \n", "/bin/sh", Some("-e  -u")),
        ] {
            let line = read(text).unwrap();
            assert_eq!(line.interpreter, Path::new(interpreter), "{text:?}");
            assert_eq!(line.argument.as_deref(), argument.map(OsStr::new), "{text:?}");
        }
        let longest = format!("#!/{}\n", "x".repeat(HEAD - 4));
        assert_eq!(read(&longest).unwrap().interpreter.as_os_str().len(), HEAD - 3);
    }

    #[test]
    fn lines_that_nobody_should_run_are_refused() {
        let too_long = format!("#!/{}\n", "x".repeat(HEAD - 3));
        for bad in [
            "#!",
            "#!\n",
            "#!sh\n",
            "#!bin/sh\n",
            "#!./sh\n",
            "#!/bin/sh\r\n",
            "#!/bin/s\0h\n",
            "sh",
            &too_long,
        ] {
            assert_eq!(read(bad).unwrap_err().code, Code::Insecure, "{bad:?}");
        }
    }

    #[test]
    fn a_line_with_env_is_refused_with_the_line_to_write() {
        let hint = |text: &str| read(text).unwrap_err().hint.unwrap();
        assert_eq!(hint("#!/usr/bin/env sh\n"), "write it as: #!/usr/bin/sh");
        assert_eq!(
            hint("#!/bin/env -S sh -e -u\n"),
            "write it as: #!/usr/bin/sh -e -u"
        );
        assert_eq!(
            hint("#!/usr/bin/env nonesuch\n"),
            "write it as: #!/path/to/nonesuch"
        );
        assert_eq!(hint("#!/usr/bin/env\n"), "write it as: #!/path/to/INTERPRETER");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(rest in proptest::collection::vec(any::<u8>(), 0..HEAD - 2)) {
            let head = [b"#!", rest.as_slice()].concat();
            if let Ok(line) = Line::read(&head, Path::new("/x")) {
                prop_assert!(line.interpreter.is_absolute());
            }
        }
    }
}
