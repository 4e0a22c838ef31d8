//! Port numbers that nobody else gets while a test needs them.
//!
//! To bind port 0, read the number and let go of it again leaves a gap in which another test can be handed the same
//! number, and a server that is restarted loses its number for good. So the socket stays bound, without listening:
//! the kernel then gives the number to nobody who asks for any, while a server that asks for this very number, and
//! sets `SO_REUSEADDR` as Go's and Rust's do, may still listen on it (socket(7), `SO_REUSEADDR`).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A TCP port on 127.0.0.1, kept free for whoever is told its number; connecting is refused until somebody listens.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: OwnedFd,
}

impl Port {
    /// Reserves a port that is free now.
    pub fn reserve() -> Self {
        Self::reserve_number(0).expect("a free port")
    }

    /// Reserves two ports in a row, for servers whose clients take the one to be next to the other.
    pub fn reserve_pair() -> (Self, Self) {
        loop {
            let first = Self::reserve();
            let next = first.number.checked_add(1).map(Self::reserve_number);
            if let Some(Ok(second)) = next {
                return (first, second);
            }
        }
    }

    /// Reserves the port with this number, or for 0 any.
    fn reserve_number(number: u16) -> rustix::io::Result<Self> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Before SO_REUSEADDR: with it we would be let in beside somebody else's reservation.
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, number))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        let address: SocketAddrV4 = getsockname(&socket)?.try_into()?;
        Ok(Self {
            number: address.port(),
            _reservation: socket,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::HashSet;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::Port;

    #[test]
    fn a_reserved_port_is_handed_out_once() {
        let ports: Vec<Port> = (0..500).map(|_| Port::reserve()).collect();
        let numbers: HashSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());

        // Nor does anybody get one who asks without our help.
        let others: Vec<TcpListener> = (0..500)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        assert!(
            others
                .iter()
                .all(|other| !numbers.contains(&other.local_addr().unwrap().port()))
        );
    }

    #[test]
    fn pairs_are_in_a_row_and_nobody_gets_half_of_one() {
        let pairs: Vec<(Port, Port)> = (0..200).map(|_| Port::reserve_pair()).collect();
        let mut numbers = HashSet::new();
        for (first, second) in &pairs {
            assert_eq!(first.number() + 1, second.number());
            assert!(numbers.insert(first.number()) && numbers.insert(second.number()));
            TcpListener::bind((Ipv4Addr::LOCALHOST, second.number())).unwrap();
        }
    }

    #[test]
    fn a_server_can_listen_on_a_reserved_port_and_come_back() {
        let port = Port::reserve();
        let address = (Ipv4Addr::LOCALHOST, port.number());
        for _ in 0..3 {
            TcpStream::connect(address).unwrap_err();
            let server = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(address).unwrap();
            // The server's side closes first and so goes into TIME_WAIT, as after a kill.
            drop(server.accept().unwrap());
            drop(client);
        }
    }
}
