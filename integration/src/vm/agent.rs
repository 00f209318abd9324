//! The QEMU guest agent's protocol: JSON lines over a socket, programs with real exit codes and separate outputs.
//! Format: <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection on which the agent has answered.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: BufReader<UnixStream>,
}

impl Agent {
    /// Connects and synchronises; `token` must be new each time, so that answers to an earlier connection are recognised.
    pub(crate) fn connect(socket: &Path, token: u64, patience: Duration) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        let mut agent = Self { stream: BufReader::new(stream) };
        agent.set_patience(patience)?;
        agent.send(&json!({"execute": "guest-sync", "arguments": {"id": token}}))?;
        while agent.receive()?["return"] != json!(token) {}
        Ok(agent)
    }

    /// How long an answer may take from now on.
    pub(crate) fn set_patience(&self, patience: Duration) -> Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience)).context("setting a time limit")
    }

    /// Starts a program in the guest; the answer is its process id.
    pub(crate) fn exec(&mut self, argv: &[&str]) -> Result<u64> {
        let (path, arg) = argv.split_first().context("running nothing")?;
        let answer = self.call("guest-exec", &json!({"path": path, "arg": arg, "capture-output": true}))?;
        answer["pid"].as_u64().context("reading the guest agent's answer: no pid")
    }

    /// How a program is doing: nothing while it runs, then its exit code, standard output and standard error.
    pub(crate) fn exec_status(&mut self, pid: u64) -> Result<Option<(i64, String, String)>> {
        let status = self.call("guest-exec-status", &json!({"pid": pid}))?;
        if status["exited"] != json!(true) {
            return Ok(None);
        }
        let text = |key: &str| -> Result<String> {
            let bytes = base64(status[key].as_str().unwrap_or_default()).with_context(|| format!("decoding {key}"))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        // A program that a signal ended has no exit code; shells write 128 + signal.
        let signal = || status["signal"].as_i64().map(|number| 128 + number);
        let code = status["exitcode"].as_i64().or_else(signal).unwrap_or(-1);
        Ok(Some((code, text("out-data")?, text("err-data")?)))
    }

    fn call(&mut self, verb: &str, arguments: &Value) -> Result<Value> {
        self.send(&json!({"execute": verb, "arguments": arguments}))?;
        let mut answer = self.receive()?;
        if answer.get("return").is_none() {
            bail!("calling {verb} of the guest agent: {answer}");
        }
        Ok(answer["return"].take())
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        self.stream.get_mut().write_all(format!("{message}\n").as_bytes()).context("writing to the guest agent")
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).context("reading from the guest agent")?;
        if count == 0 {
            bail!("reading from the guest agent: the connection is closed");
        }
        serde_json::from_str(&line).with_context(|| format!("reading from the guest agent: {line:?}"))
    }
}

/// Standard base64 with padding (RFC 4648).
fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == byte)?;
        buffer = (buffer << 6) | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((buffer >> bits) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        let table = [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")];
        for (text, bytes) in table {
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(base64("-_=="), None);
        assert_eq!(base64("//79"), Some(vec![0xff, 0xfe, 0xfd]));
    }
}
