//! Stands between a client and its TPM: records what they say, counts it, and changes it where a test wants that.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::ports::Port;

/// A command and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What the client sent.
    pub command: Vec<u8>,
    /// What it got.
    pub answer: Vec<u8>,
}

impl Exchange {
    /// The command's code.
    pub fn code(&self) -> u32 {
        u32::from_be_bytes(self.command[6..10].try_into().unwrap())
    }

    /// Whether the TPM did it.
    pub fn succeeded(&self) -> bool {
        self.answer.get(6..10) == Some(&[0; 4][..])
    }
}

/// What to answer to a command, given the way to the TPM; nothing hangs up.
pub type Meddler = Box<dyn FnMut(&[u8], &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> + Send>;

struct Shared {
    upstream: u16,
    /// One connection for all: swtpm takes one at a time, and one that waits is soon one that is turned away.
    tpm: Mutex<Option<TcpStream>>,
    exchanges: Mutex<Vec<Exchange>>,
    meddler: Mutex<Option<Meddler>>,
}

impl Shared {
    fn ask(&self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut tpm = self.tpm.lock().unwrap();
        let mut stream = match tpm.take() {
            Some(stream) => stream,
            None => connect(self.upstream)?,
        };
        stream.set_nodelay(true)?;
        let answer = ask(&mut stream, command)?;
        *tpm = Some(stream);
        Ok(answer)
    }
}

/// A way to the TPM that keeps what goes over it.
pub struct Recorder {
    ports: (Port, Port),
    shared: Arc<Shared>,
}

impl Recorder {
    /// A recorder before the TPM at a port.
    pub fn new(upstream: u16) -> Self {
        let ports = Port::reserve_pair();
        let listen = |port: &Port| TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        let (data, control) = (listen(&ports.0), listen(&ports.1));
        let shared = Arc::new(Shared {
            upstream,
            tpm: Mutex::default(),
            exchanges: Mutex::default(),
            meddler: Mutex::default(),
        });
        let for_data = Arc::clone(&shared);
        // These threads end with the test.
        std::thread::spawn(move || {
            for client in data.incoming().flatten() {
                let shared = Arc::clone(&for_data);
                std::thread::spawn(move || serve(client, &shared));
            }
        });
        std::thread::spawn(move || {
            for client in control.incoming().flatten() {
                std::thread::spawn(move || control_channel(client));
            }
        });
        Self { ports, shared }
    }

    /// Where clients find the TPM.
    pub fn port(&self) -> u16 {
        self.ports.0.number()
    }

    /// What was said since the last time.
    pub fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.shared.exchanges.lock().unwrap())
    }

    /// From now on this decides what is answered.
    pub fn meddle(
        &self,
        meddler: impl FnMut(&[u8], &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> + Send + 'static,
    ) {
        *self.shared.meddler.lock().unwrap() = Some(Box::new(meddler));
    }

    /// A command that is not recorded; gives the answer.
    pub fn ask(&self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.shared.ask(command)
    }

    /// Connects to the TPM, and stays connected.
    pub(super) fn connect(&self) -> io::Result<()> {
        let mut tpm = self.shared.tpm.lock().unwrap();
        *tpm = Some(connect(self.shared.upstream)?);
        Ok(())
    }

    /// The TPM lost its power.
    pub fn hang_up(&self) {
        *self.shared.tpm.lock().unwrap() = None;
    }

    /// From now on the TPM answers for itself.
    pub fn leave_alone(&self) {
        *self.shared.meddler.lock().unwrap() = None;
    }
}

fn serve(mut client: TcpStream, shared: &Shared) {
    let _ = client.set_nodelay(true);
    while let Ok(command) = message(&mut client) {
        let mut forward = |command: &[u8]| shared.ask(command).unwrap_or_default();
        let answer = match &mut *shared.meddler.lock().unwrap() {
            Some(meddler) => meddler(&command, &mut forward),
            None => Some(forward(&command)),
        };
        let Some(answer) = answer.filter(|answer| !answer.is_empty()) else {
            return;
        };
        shared.exchanges.lock().unwrap().push(Exchange {
            command,
            answer: answer.clone(),
        });
        if client.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Connects to swtpm. It queues one connection at most, and the kernel would try one that was turned away again after a
/// second, then two, then four: so we do, sooner.
fn connect(port: u16) -> io::Result<TcpStream> {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut tried = 0;
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && tried < 100 => tried += 1,
            outcome => return outcome,
        }
    }
}

fn ask(tpm: &mut TcpStream, command: &[u8]) -> io::Result<Vec<u8>> {
    tpm.write_all(command)?;
    message(tpm)
}

/// A command or answer: tag, length of all, and the rest.
fn message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 6];
    stream.read_exact(&mut bytes)?;
    let length = u32::from_be_bytes(bytes[2..6].try_into().unwrap()) as usize;
    if !(10..=8192).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[6..])?;
    Ok(bytes)
}

/// One command to a TPM and its answer.
pub fn exchange(port: u16, command: &[u8]) -> io::Result<Vec<u8>> {
    let mut tpm = connect(port)?;
    ask(&mut tpm, command)
}

/// Says yes to what a client of swtpm asks of its control channel: that the locality be 0, as it is from the start. swtpm
/// itself would turn a client away, or leave it waiting for seconds, that comes before it noticed that the last one left.
fn control_channel(mut client: TcpStream) {
    const SET_LOCALITY_0: [u8; 5] = [0, 0, 0, 5, 0];
    let mut command = [0; 5];
    while client.read_exact(&mut command).is_ok() && command == SET_LOCALITY_0 {
        if client.write_all(&[0; 4]).is_err() {
            return;
        }
    }
}
