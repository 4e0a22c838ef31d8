//! The way to the TPM: the setting `tcti`.
//!
//! libtss2 and tss-esapi ignore keys they do not know, and read `swtpm:path=…` as "localhost, port 2321": another TPM than
//! the one that was meant. So a setting is read here, completely, and only what is left of it goes on.

use std::path::Path;

use kdf_api::{Code, Error, Result};
use tss_esapi::tcti_ldr::TctiNameConf;

/// The kernel's resource manager. `/dev/tpm0` has none: one user at a time, and what a killed one left behind stays.
pub(crate) const DEFAULT: &str = "device:/dev/tpmrm0";

/// A way to a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A device node.
    Device(String),
    /// A software TPM at an address.
    Swtpm { host: String, port: u16 },
    /// The access broker tpm2-abrmd.
    Tabrmd { bus_name: String, bus_type: String },
}

impl Transport {
    /// Reads the setting.
    pub(crate) fn parse(setting: &str) -> Result<Self> {
        let (kind, rest) = setting
            .split_once(':')
            .ok_or_else(|| refused("names no kind of TPM"))?;
        match kind {
            "device" => device(rest),
            "swtpm" => swtpm(rest),
            "tabrmd" => tabrmd(rest),
            _ => Err(refused("is none of device:, swtpm:, tabrmd:")),
        }
    }

    /// Whether what is there can be nothing but a program.
    pub(crate) const fn is_software(&self) -> bool {
        matches!(self, Self::Swtpm { .. })
    }

    /// The same for tss-esapi, kind by kind: to find the kind it would compile a regular expression for each.
    pub(crate) fn configuration(&self) -> Result<TctiNameConf> {
        let configuration = match self {
            Self::Device(path) => path.parse().map(TctiNameConf::Device),
            Self::Swtpm { host, port } => format!("host={host},port={port}")
                .parse()
                .map(TctiNameConf::Swtpm),
            Self::Tabrmd { bus_name, bus_type } => format!("bus_name={bus_name},bus_type={bus_type}")
                .parse()
                .map(TctiNameConf::Tabrmd),
        };
        configuration.map_err(|_| refused("is not understood by libtss2"))
    }

    /// Why nothing answers there, as far as that can be seen from here.
    pub(crate) fn why_absent(&self) -> Error {
        match self {
            Self::Device(path) => match std::fs::metadata(Path::new(path)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Error::new(
                    Code::Unavailable,
                    format!("there is no TPM: {path} does not exist"),
                )
                .hint("see whether the TPM is switched on in the firmware's set-up"),
                Err(error) => Error::new(
                    Code::Unavailable,
                    format!("the TPM cannot be reached: {path}: {error}"),
                ),
                Ok(_) => Error::new(Code::Unavailable, format!("the TPM at {path} does not open")).hint(
                    "the user must be in the group that owns it (tss); /dev/tpm0 has one user at a time",
                ),
            },
            Self::Swtpm { host, port } => Error::new(
                Code::Unavailable,
                format!("no software TPM answers at {host}, port {port}"),
            )
            .hint("its control channel must be at the next port"),
            Self::Tabrmd { bus_name, .. } => Error::new(
                Code::Unavailable,
                format!("no access broker answers as {bus_name}"),
            )
            .hint("systemctl status tpm2-abrmd; or use the kernel's resource manager: device:/dev/tpmrm0"),
        }
    }
}

fn device(path: &str) -> Result<Transport> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if path.starts_with('/') && path.chars().all(plain) {
        Ok(Transport::Device(path.to_owned()))
    } else {
        Err(refused("names no device by an absolute path"))
    }
}

fn swtpm(rest: &str) -> Result<Transport> {
    if rest.split(',').any(|pair| pair.starts_with("path=")) {
        return Err(Error::new(
            Code::InvalidRequest,
            "the setting tcti has swtpm:path=, which libtss2's users take for localhost, port 2321: another TPM",
        )
        .hint("start swtpm with --server type=tcp and name it as swtpm:host=127.0.0.1,port=N"));
    }
    let [host, port] = pairs(rest, ["host", "port"])?;
    let host = host.unwrap_or("127.0.0.1");
    let plain = |character: char| character.is_ascii_alphanumeric() || ".:-".contains(character);
    if host.is_empty() || !host.chars().all(plain) {
        return Err(refused("has a host that is neither a name nor an address"));
    }
    // The control channel is at the next port.
    let port = port
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|port| (1..u16::MAX).contains(port))
        .ok_or_else(|| refused("has no port from 1 to 65534"))?;
    Ok(Transport::Swtpm {
        host: host.to_owned(),
        port,
    })
}

fn tabrmd(rest: &str) -> Result<Transport> {
    let [bus_name, bus_type] = pairs(rest, ["bus_name", "bus_type"])?;
    let bus_name = bus_name.unwrap_or("com.intel.tss2.Tabrmd");
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if bus_name.is_empty() || !bus_name.chars().all(plain) {
        return Err(refused("has a bus_name that is none"));
    }
    let bus_type = bus_type.unwrap_or("system");
    if !["system", "session"].contains(&bus_type) {
        return Err(refused("has a bus_type that is neither system nor session"));
    }
    Ok(Transport::Tabrmd {
        bus_name: bus_name.to_owned(),
        bus_type: bus_type.to_owned(),
    })
}

/// The values of `key=value,key=value`, each key at most once and none but these.
fn pairs<'a, const N: usize>(text: &'a str, keys: [&str; N]) -> Result<[Option<&'a str>; N]> {
    let mut values = [None; N];
    for pair in text.split(',').filter(|_| !text.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| refused("is not key=value after the colon"))?;
        let place = keys
            .iter()
            .position(|known| *known == key)
            .and_then(|place| values.get_mut(place));
        match place {
            Some(place @ None) => *place = Some(value),
            Some(Some(_)) => return Err(refused("has a key twice")),
            None => return Err(refused(&format!("has a key that is none of {}", keys.join(", ")))),
        }
    }
    Ok(values)
}

fn refused(why: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("the setting tcti {why}"))
        .hint("device:/dev/tpmrm0; swtpm:host=127.0.0.1,port=N; tabrmd:bus_name=N,bus_type=system")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn what_is_understood() {
        let parsed = |text| Transport::parse(text).unwrap();
        assert_eq!(parsed(DEFAULT), Transport::Device("/dev/tpmrm0".to_owned()));
        let swtpm = |host: &str| Transport::Swtpm {
            host: host.to_owned(),
            port: 4711,
        };
        assert_eq!(parsed("swtpm:host=10.0.0.1,port=4711"), swtpm("10.0.0.1"));
        assert_eq!(parsed("swtpm:port=4711,host=10.0.0.1"), swtpm("10.0.0.1"));
        assert_eq!(parsed("swtpm:port=4711"), swtpm("127.0.0.1"));
        assert!(matches!(parsed("tabrmd:"), Transport::Tabrmd { .. }));
        assert!(matches!(
            parsed("tabrmd:bus_type=session"),
            Transport::Tabrmd { .. }
        ));
    }

    #[test]
    fn what_is_understood_reaches_libtss2_as_it_is() {
        for text in [
            "device:/dev/tpmrm0",
            "swtpm:host=10.0.0.1,port=4711",
            "tabrmd:bus_name=com.intel.tss2.Tabrmd,bus_type=session",
        ] {
            let ours = Transport::parse(text).unwrap().configuration().unwrap();
            assert_eq!(ours, TctiNameConf::from_str(text).unwrap());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "device",
            "device:",
            "device:tpmrm0",
            "device:/dev/tpmrm0 ",
            "mssim:host=127.0.0.1,port=2321",
            "libtss2-tcti-pcap.so:x",
            "pcap:device:/dev/tpmrm0",
            "swtpm:",
            "swtpm:port=0",
            "swtpm:port=65535",
            "swtpm:port=+1",
            "swtpm:port=1,port=2",
            "swtpm:port=1,hots=x",
            "swtpm:port=1,",
            "swtpm:port=1,host=",
            "swtpm:port=1,host=a b",
            "tabrmd:bus=x",
            "tabrmd:bus_type=both",
        ] {
            assert_eq!(
                Transport::parse(text).unwrap_err().code,
                Code::InvalidRequest,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_path_to_swtpm_is_refused_with_the_reason() {
        for text in ["swtpm:path=/run/swtpm.sock", "swtpm:port=1,path=/x"] {
            let error = Transport::parse(text).unwrap_err();
            assert!(error.message.contains("another TPM"), "{error}");
        }
    }
}
