//! The firmware's event log: what was measured into a register, so that who reads "PCR 7 changed" has something to look at.
//!
//! The format is the crypto agile one of the TCG PC Client Platform Firmware Profile, section 10. Only kinds of events and
//! names of UEFI variables are told: other contents may be anything.

use std::collections::BTreeMap;
use std::io::Read as _;

use kdf_api::Detail;

/// Where the kernel has it, for the machine's own TPM. Usually for root alone.
const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// More than firmware writes.
const MAX_LOG: u64 = 4 << 20;
/// So many events of a register are told.
const MAX_TOLD: usize = 24;
/// Lengths in a log beyond this make no sense.
const MAX_EVENT: usize = 1 << 20;
const EV_NO_ACTION: u32 = 3;

/// Adds to findings about registers (`pcr 7`) what the log has of them, if it can be read.
pub(crate) fn add(details: &mut [Detail]) {
    if !details.iter().any(|detail| register(detail).is_some()) {
        return;
    }
    let mut log = Vec::new();
    let read = std::fs::File::open(LOG).and_then(|file| file.take(MAX_LOG).read_to_end(&mut log));
    if let Some(events) = read.ok().and_then(|_| parse(&log)) {
        add_from(&events, details);
    }
}

fn add_from(events: &BTreeMap<u8, Vec<String>>, details: &mut [Detail]) {
    for detail in details {
        if let Some(measured) = register(detail).and_then(|register| events.get(&register)) {
            detail.hint = Some(format!("measured into it at this start: {}", told(measured)));
        }
    }
}

fn register(detail: &Detail) -> Option<u8> {
    detail.name.strip_prefix("pcr ")?.parse().ok()
}

fn told(events: &[String]) -> String {
    let mut text = events
        .iter()
        .take(MAX_TOLD)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if events.len() > MAX_TOLD {
        text.push_str(", …");
    }
    text
}

/// The events of each register; nothing if it is no log of this format.
pub(crate) fn parse(log: &[u8]) -> Option<BTreeMap<u8, Vec<String>>> {
    let mut rest = Cursor(log);
    let sizes = header(&mut rest)?;
    let mut events: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    // What the firmware did not finish, or what is cut off, ends the log.
    while let Some((register, kind, content)) = event(&mut rest, &sizes) {
        if let (Ok(register), true) = (u8::try_from(register), kind != EV_NO_ACTION) {
            events.entry(register).or_default().push(name(kind, content));
        }
    }
    Some(events)
}

/// The first event, in the old format, says how long digests are.
fn header(rest: &mut Cursor<'_>) -> Option<BTreeMap<u16, usize>> {
    let (_register, kind) = (rest.u32()?, rest.u32()?);
    rest.take(20)?;
    let mut content = Cursor(rest.sized()?);
    if kind != EV_NO_ACTION || content.take(16)? != b"Spec ID Event03\0" {
        return None;
    }
    content.take(8)?;
    let mut sizes = BTreeMap::new();
    for _ in 0..content.u32()?.min(16) {
        let (algorithm, size) = (content.u16()?, content.u16()?);
        sizes.insert(algorithm, usize::from(size));
    }
    Some(sizes)
}

fn event<'a>(rest: &mut Cursor<'a>, sizes: &BTreeMap<u16, usize>) -> Option<(u32, u32, &'a [u8])> {
    let (register, kind) = (rest.u32()?, rest.u32()?);
    for _ in 0..rest.u32()?.min(16) {
        let algorithm = rest.u16()?;
        rest.take(*sizes.get(&algorithm)?)?;
    }
    Some((register, kind, rest.sized()?))
}

/// An event in a word, and of a UEFI variable its name.
fn name(kind: u32, content: &[u8]) -> String {
    let word = match kind {
        0x0000_0004 => "separator",
        0x0000_0005 | 0x8000_0007 => "action",
        0x0000_0006 => "tagged event",
        0x0000_0007 => "firmware (CRTM)",
        0x0000_0008 => "firmware version (CRTM)",
        0x0000_0009 => "microcode",
        0x0000_000a => "platform settings",
        0x0000_000b => "table of devices",
        0x0000_000c => "compact hash",
        0x0000_000d => "boot loader's event",
        0x8000_0001 => "variable",
        0x8000_0002 | 0x8000_000c => "boot variable",
        0x8000_0003 => "application",
        0x8000_0004 => "driver (boot services)",
        0x8000_0005 => "driver (runtime services)",
        0x8000_0006 => "partition table",
        0x8000_0008 | 0x8000_000a => "firmware volume",
        0x8000_0009 | 0x8000_000b => "firmware tables",
        0x8000_00e0 => "key that verified an image, from",
        _ => return format!("event {kind:#x}"),
    };
    let variable = matches!(kind, 0x8000_0001 | 0x8000_0002 | 0x8000_000c | 0x8000_00e0);
    match variable.then(|| variable_name(content)).flatten() {
        Some(variable) => format!("{word} {variable}"),
        None => word.to_owned(),
    }
}

/// `UEFI_VARIABLE_DATA`: a GUID, two lengths, and the name in UTF-16. Nothing but plain characters is repeated.
fn variable_name(content: &[u8]) -> Option<String> {
    let mut content = Cursor(content);
    content.take(16)?;
    let length = usize::try_from(content.u64()?)
        .ok()
        .filter(|length| *length <= 64)?;
    content.u64()?;
    let mut name = String::new();
    for _ in 0..length {
        let character = char::from(u8::try_from(content.u16()?).ok()?);
        if !character.is_ascii_alphanumeric() {
            return None;
        }
        name.push(character);
    }
    Some(name)
}

/// Little-endian numbers, and nothing past the end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?)
            .ok()
            .filter(|length| *length <= MAX_EVENT)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut log = Vec::new();
        let number = |log: &mut Vec<u8>, value: u32| log.extend(value.to_le_bytes());
        // The header: SHA-1 and SHA-256.
        number(&mut log, 0);
        number(&mut log, EV_NO_ACTION);
        log.extend([0; 20]);
        let mut content = b"Spec ID Event03\0".to_vec();
        content.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        number(&mut content, 2);
        for (algorithm, size) in [(0x0004_u16, 20_u16), (0x000b, 32)] {
            content.extend(algorithm.to_le_bytes());
            content.extend(size.to_le_bytes());
        }
        content.push(0);
        number(&mut log, u32::try_from(content.len()).unwrap());
        log.extend(content);
        let mut event = |register: u32, kind: u32, content: &[u8]| {
            number(&mut log, register);
            number(&mut log, kind);
            number(&mut log, 2);
            log.extend([&[0x04, 0x00][..], &[1; 20], &[0x0b, 0x00], &[2; 32]].concat());
            number(&mut log, u32::try_from(content.len()).unwrap());
            log.extend(content);
        };
        event(0, 8, b"1.2.3");
        let mut variable = vec![9; 16];
        variable.extend(10_u64.to_le_bytes());
        variable.extend(1_u64.to_le_bytes());
        variable.extend("SecureBoot".encode_utf16().flat_map(u16::to_le_bytes));
        variable.push(1);
        event(7, 0x8000_0001, &variable);
        event(7, 4, &[0; 4]);
        event(4, 0x1234, b"\x1b[2J");
        log
    }

    #[test]
    fn a_log_is_told_in_words() {
        let events = parse(&sample()).unwrap();
        assert_eq!(events[&0], ["firmware version (CRTM)"]);
        assert_eq!(events[&7], ["variable SecureBoot", "separator"]);
        assert_eq!(events[&4], ["event 0x1234"]);
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn a_finding_about_a_register_gets_its_events() {
        let detail = |name: &str| Detail {
            name: name.to_owned(),
            value: "changed".to_owned(),
            hint: None,
        };
        let mut details = [detail("pcr 7"), detail("pcr 9"), detail("parent")];
        add_from(&parse(&sample()).unwrap(), &mut details);
        let hint = details[0].hint.as_deref();
        assert_eq!(
            hint,
            Some("measured into it at this start: variable SecureBoot, separator")
        );
        assert!(details[1].hint.is_none() && details[2].hint.is_none());
    }

    #[test]
    fn a_log_that_is_cut_off_anywhere_is_read_as_far_as_it_goes() {
        let log = sample();
        for length in 0..log.len() {
            let events = parse(&log[..length]).unwrap_or_default();
            assert!(events.values().map(Vec::len).sum::<usize>() < 4);
        }
    }

    #[test]
    fn an_old_log_is_left_alone() {
        assert!(parse(&[0; 100]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(
            place in 0_usize..200,
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut log = sample();
            let place = place.min(log.len());
            log.splice(place..(place + bytes.len()).min(sample().len()), bytes);
            let _ = parse(&log);
        }
    }
}
