//! Relays on loopback, in front of a registry: one that somebody counts at, and one that holds what comes back until it is let go.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result};

/// Starts relaying to `server`, a port on loopback; ends with this process. `asked` sees what clients send. `pass` is called before so many bytes go to a client,
/// and they go when it returns. The result is the port of the relay.
pub(crate) fn start(
    server: u16,
    asked: impl Fn(&[u8]) + Send + Sync + 'static,
    pass: impl Fn(usize) + Send + Sync + 'static,
) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("starting a relay")?;
    let port = listener.local_addr().context("starting a relay")?.port();
    let each: Arc<(Box<Asked>, Box<Pass>)> = Arc::new((Box::new(asked), Box::new(pass)));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let each = Arc::clone(&each);
            // A client whose relay fails sees a closed connection, and tells that itself.
            thread::spawn(move || relay(&client, server, &each));
        }
    });
    Ok(port)
}

type Asked = dyn Fn(&[u8]) + Send + Sync;
type Pass = dyn Fn(usize) + Send + Sync;

fn relay(client: &TcpStream, server: u16, each: &Arc<(Box<Asked>, Box<Pass>)>) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server))?;
    let (up, to_server, asked) = (client.try_clone()?, server.try_clone()?, Arc::clone(each));
    let upwards = thread::spawn(move || {
        let _ = copy(&up, &to_server, &|bytes| (asked.0)(bytes));
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let copied = copy(&server, client, &|bytes| (each.1)(bytes.len()));
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = upwards.join();
    copied
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, each: &dyn Fn(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        each(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
}

/// A relay that can hold what a registry sends: what is fetched through it is then certainly under way for as long as somebody looks at it.
#[derive(Debug)]
pub(crate) struct Gate {
    port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// What may pass.
#[derive(Debug, Default)]
struct State {
    /// So many bytes more, over all connections; without a number, everything.
    left: Option<u64>,
    /// Whether more than that has come.
    holding: bool,
}

impl Gate {
    /// A gate in front of `server`, a port on loopback. It is open.
    pub(crate) fn start(server: u16) -> Result<Self> {
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let there = Arc::clone(&state);
        let port = start(server, |_| (), move |bytes| wait_to_pass(&there, bytes as u64))?;
        Ok(Self { port, state })
    }

    /// Its port on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Lets at most `bytes` more pass, and holds what comes then.
    pub(crate) fn hold_after(&self, bytes: u64) {
        *self.state() = State { left: Some(bytes), holding: false };
    }

    /// Whether it holds something.
    pub(crate) fn is_holding(&self) -> bool {
        self.state().holding
    }

    /// Lets everything pass, also what it holds.
    pub(crate) fn open(&self) {
        *self.state() = State::default();
        self.state.1.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait_to_pass((state, changed): &(Mutex<State>, Condvar), bytes: u64) {
    let state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let closed = |state: &mut State| {
        let closed = state.left.is_some_and(|left| left < bytes);
        state.holding |= closed;
        closed
    };
    let mut state = changed.wait_while(state, closed).unwrap_or_else(PoisonError::into_inner);
    state.left = state.left.map(|left| left - bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each connection with so many bytes.
    fn server(bytes: usize) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(&vec![7; bytes]);
            }
        });
        port
    }

    fn read(port: u16) -> usize {
        let mut answer = Vec::new();
        TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_end(&mut answer).unwrap();
        answer.len()
    }

    #[test]
    fn a_gate_holds_what_is_too_much_until_it_is_opened() {
        let gate = Gate::start(server(1 << 20)).unwrap();
        assert_eq!(read(gate.port()), 1 << 20, "it is open at first");
        gate.hold_after(400 << 10);
        let port = gate.port();
        let (sender, answer) = std::sync::mpsc::channel();
        thread::spawn(move || sender.send(read(port)));
        while !gate.is_holding() {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(answer.try_recv().is_err(), "some is held");
        gate.open();
        assert_eq!(answer.recv().unwrap(), 1 << 20, "nothing is lost");
        assert!(!gate.is_holding());
    }
}
