//! Opening listeners, with errors that tell what to do.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel may hold for us: a burst of viewers who arrive
/// together must not be turned away.
const BACKLOG: u32 = 4_096;

/// Attempts to find a port that is free over TCP and UDP.
const ATTEMPTS: u32 = 16;

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address}: {}", advice(*address, source))]
pub struct Error {
    /// The flag that gave the address, e.g. `--http`.
    pub flag: &'static str,
    /// Where it was to listen.
    pub address: SocketAddr,
    /// What the system said. Part of the text already.
    pub source: io::Error,
}

/// A listener on every address, where others must be told one of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{flag} {address} listens on every address, which is none to tell others: \
     give {public} URL as well, as they reach it"
)]
pub struct Untold {
    /// The flag that gave the address, e.g. `--http`.
    pub flag: &'static str,
    /// Where it was to listen.
    pub address: SocketAddr,
    /// The flag that says what others are told, e.g. `--public-http`.
    pub public: &'static str,
}

/// Refuses to tell others an `address` that leads nowhere from where they are,
/// unless the operator `given` another one for them.
///
/// # Errors
/// When `address` is unspecified (`0.0.0.0`, `[::]`) and nothing was given.
pub fn told(
    flag: &'static str,
    address: SocketAddr,
    public: &'static str,
    given: Option<&str>,
) -> Result<(), Untold> {
    match given {
        None if address.ip().to_canonical().is_unspecified() => {
            Err(Untold { flag, address, public })
        }
        _ => Ok(()),
    }
}

fn advice(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} is taken: stop what listens there, choose another port, or 0 for a free one"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("no permission to listen on port {port}: choose a port above 1023")
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "this machine does not have the address {}: use 127.0.0.1, 0.0.0.0 or one of its own",
            address.ip()
        ),
        _ => error.to_string(),
    }
}

/// Listens on `address`; port 0 takes a free one. `flag` is named in the error.
pub async fn tcp(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    open(address).map_err(|source| Error { flag, address, source })
}

/// Listens on `address` over TCP, and over UDP on the same port: HTTPS and
/// HTTP/3. Port 0 takes one that is free in both.
pub async fn tcp_and_udp(
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, UdpSocket), Error> {
    let mut attempts = if address.port() == 0 { ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let opened = open(address).and_then(|tcp| {
            let udp = UdpSocket::bind(tcp.local_addr()?)?;
            udp.set_nonblocking(true)?;
            Ok((tcp, udp))
        });
        match opened {
            Err(error) if attempts > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            opened => return opened.map_err(|source| Error { flag, address, source }),
        }
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Else a restart waits for the connections of the previous run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whom to hold to a limit for one address: the address, or an IPv6 network of
/// 64 bits, which is what one household has.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_flag() {
        let free = tcp("--http", SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let taken = free.local_addr().unwrap();
        let error = tcp("--http", taken).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("--http {taken}: port {} is taken", taken.port())));
    }

    #[test]
    fn every_address_is_none_to_tell_others() {
        for every in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1"] {
            let error = told("--http", every.parse().unwrap(), "--public-http", None).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("--http ") && error.contains("give --public-http URL"));
            let given = Some("http://h:1");
            assert_eq!(told("--http", every.parse().unwrap(), "--public-http", given), Ok(()));
        }
        assert_eq!(told("--http", "10.0.0.1:1".parse().unwrap(), "--public-http", None), Ok(()));
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_explained() {
        let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = tcp("--rtmp", foreign).await.unwrap_err().to_string();
        assert!(error.contains("does not have the address 192.0.2.1"), "{error}");
    }
}
