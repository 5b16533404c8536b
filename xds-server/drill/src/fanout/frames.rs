//! The client's side of an HTTP/2 connection with nothing but gRPC streams on it that stay open: bytes in, bytes out, no socket.
//!
//! It reads what a client must react to (settings, pings, windows, the end of a stream), passes data on where it lies, and skips
//! headers without decoding them. That is a tenth of what a whole client costs, and why the swarm has its own. It is no general
//! client: a server that pads its data or ends a stream is an error.

/// What begins a connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most that one frame may carry unless the other side says more, which is not made use of.
const FRAME: usize = 16_384;
/// Windows given to the server: the largest there are (section 6.9.1), renewed long before they are used up.
const WINDOW: u32 = (1 << 31) - 1;
/// What is received before they are renewed.
const RENEW: usize = 1 << 28;
/// What the server gives before it says otherwise (section 6.9.2).
const THEIR_WINDOW: i64 = 65_535;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const INITIAL_WINDOW_SIZE: u16 = 4;

/// A connection and its streams, which are counted from 0.
#[derive(Debug)]
pub(super) struct Connection {
    /// What is to be written to the socket.
    pub(super) output: Vec<u8>,
    window: i64,
    initial: i64,
    streams: Vec<Sending>,
    at: At,
    /// The head of a frame, or what a control frame carries, as far as it was read.
    partial: Vec<u8>,
    received: usize,
}

#[derive(Debug)]
struct Sending {
    window: i64,
    /// What waits for the window.
    queue: Vec<u8>,
    received: usize,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Head,
    Frame { kind: u8, flags: u8, stream: u32, left: usize },
}

/// Why a connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("the server ended stream {0}: {1}")]
    Ended(u32, String),
    #[error("the server closed the connection: {0}")]
    GoAway(String),
    #[error("the server sent what this client does not read: {0}")]
    Unread(&'static str),
}

// === impl Connection ===

impl Connection {
    /// A connection that opens so many streams of one method.
    pub(super) fn open(streams: usize, path: &str, authority: &str) -> Self {
        let mut output = PREFACE.to_vec();
        // HEADER_TABLE_SIZE 0: nothing to remember between headers that are not read. INITIAL_WINDOW_SIZE as large as can be.
        let settings = [&[0, 1, 0, 0, 0, 0, 0, 4][..], &WINDOW.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &settings, &mut output);
        let more = WINDOW - u32::try_from(THEIR_WINDOW).unwrap_or(0);
        frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes(), &mut output);
        let headers = headers(path, authority);
        for index in 0..streams {
            frame(HEADERS, END_HEADERS, id(index), &headers, &mut output);
        }
        let sending = || Sending { window: THEIR_WINDOW, queue: Vec::new(), received: 0 };
        Self {
            output,
            window: THEIR_WINDOW,
            initial: THEIR_WINDOW,
            streams: (0..streams).map(|_| sending()).collect(),
            at: At::Head,
            partial: Vec::new(),
            received: 0,
        }
    }

    /// Sends one message on a stream, as far as the server's windows allow; the rest follows when they open.
    pub(super) fn send(&mut self, stream: usize, message: &[u8]) {
        let Some(sending) = self.streams.get_mut(stream) else { return };
        sending.queue.push(0);
        sending.queue.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        sending.queue.extend_from_slice(message);
        self.flush(stream);
    }

    /// Takes what came from the socket and hands on each piece of a stream's data.
    pub(super) fn receive(
        &mut self,
        mut bytes: &[u8],
        mut data: impl FnMut(usize, &[u8]),
    ) -> Result<(), Broken> {
        loop {
            match self.at {
                At::Head => {
                    let take = bytes.len().min(9 - self.partial.len());
                    let (part, rest) = bytes.split_at(take);
                    self.partial.extend_from_slice(part);
                    bytes = rest;
                    let &[a, b, c, kind, flags, d, e, f, g] = self.partial.as_slice() else { return Ok(()) };
                    let left = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
                    let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
                    if kind == DATA && flags & PADDED != 0 {
                        return Err(Broken::Unread("padded data"));
                    }
                    self.partial.clear();
                    self.at = At::Frame { kind, flags, stream, left };
                }
                At::Frame { kind, flags, stream, left } => {
                    let (part, rest) = bytes.split_at(bytes.len().min(left));
                    bytes = rest;
                    let left = left - part.len();
                    if kind != DATA {
                        self.partial.extend_from_slice(part);
                    } else if !part.is_empty() {
                        let index = index(stream);
                        self.count(index, part.len());
                        data(index, part);
                    }
                    if left > 0 {
                        self.at = At::Frame { kind, flags, stream, left };
                        return Ok(());
                    }
                    self.at = At::Head;
                    let payload = std::mem::take(&mut self.partial);
                    self.end_of_frame(kind, flags, stream, &payload)?;
                }
            }
        }
    }

    fn end_of_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Broken> {
        let text = |payload: &[u8]| String::from_utf8_lossy(payload).escape_default().to_string();
        match kind {
            DATA | HEADERS if flags & END_STREAM != 0 => return Err(Broken::Ended(stream, text(payload))),
            RST_STREAM => return Err(Broken::Ended(stream, format!("reset, code {payload:?}"))),
            GOAWAY => return Err(Broken::GoAway(text(payload))),
            SETTINGS if flags & ACK == 0 => {
                for &[a, b, c, d, e, f] in payload.as_chunks::<6>().0 {
                    if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                        let initial = i64::from(u32::from_be_bytes([c, d, e, f]));
                        let change = initial - self.initial;
                        self.initial = initial;
                        self.streams.iter_mut().for_each(|sending| sending.window += change);
                    }
                }
                frame(SETTINGS, ACK, 0, &[], &mut self.output);
                self.flush_all();
            }
            PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, &mut self.output),
            WINDOW_UPDATE => {
                let &[a, b, c, d] = payload else { return Err(Broken::Unread("a window of no size")) };
                let more = i64::from(u32::from_be_bytes([a & 0x7f, b, c, d]));
                if stream == 0 {
                    self.window += more;
                    self.flush_all();
                } else if let Some(sending) = self.streams.get_mut(index(stream)) {
                    sending.window += more;
                    self.flush(index(stream));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Counts data against the windows given, and renews them.
    fn count(&mut self, stream: usize, len: usize) {
        self.received += len;
        if self.received >= RENEW {
            renew(0, &mut self.received, &mut self.output);
        }
        if let Some(sending) = self.streams.get_mut(stream) {
            sending.received += len;
            if sending.received >= RENEW {
                renew(id(stream), &mut sending.received, &mut self.output);
            }
        }
    }

    fn flush_all(&mut self) {
        (0..self.streams.len()).for_each(|stream| self.flush(stream));
    }

    fn flush(&mut self, stream: usize) {
        let Some(sending) = self.streams.get_mut(stream) else { return };
        let mut sent = 0;
        while sent < sending.queue.len() {
            let allowed = usize::try_from(sending.window.min(self.window)).unwrap_or(0);
            let len = allowed.min(FRAME).min(sending.queue.len() - sent);
            let Some(part) = sending.queue.get(sent..sent + len).filter(|part| !part.is_empty()) else {
                break;
            };
            frame(DATA, 0, id(stream), part, &mut self.output);
            sent += len;
            let len = i64::try_from(len).unwrap_or(i64::MAX);
            sending.window -= len;
            self.window -= len;
        }
        sending.queue.drain(..sent);
    }
}

/// Streams that a client opens have odd numbers (section 5.1.1).
fn id(index: usize) -> u32 {
    u32::try_from(index * 2 + 1).unwrap_or(u32::MAX)
}

fn index(id: u32) -> usize {
    usize::try_from(id / 2).unwrap_or(usize::MAX)
}

fn renew(stream: u32, received: &mut usize, output: &mut Vec<u8>) {
    let more = u32::try_from(std::mem::take(received)).unwrap_or(WINDOW);
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes(), output);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], output: &mut Vec<u8>) {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    output.extend_from_slice(&[a, b, c, kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
    output.extend_from_slice(payload);
}

/// A gRPC call's headers by RFC 7541: two from the static table, the others literal and not to be remembered (section 6.2.2).
fn headers(path: &str, authority: &str) -> Vec<u8> {
    const POST: u8 = 0x83;
    const HTTP: u8 = 0x86;
    let mut block = vec![POST, HTTP];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        // All are shorter than 127 bytes, so that their length is one (section 5.1).
        block.push(u8::try_from(value.len()).unwrap_or(0));
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[4], path);
    literal(&[1], authority);
    literal(&[0x0f, 16], "application/grpc");
    literal(&[0, 2, b't', b'e'], "trailers");
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(kind, flags, stream, payload, &mut bytes);
        bytes
    }

    #[test]
    fn data_is_handed_on_and_control_frames_are_answered_however_they_are_cut() {
        let bytes = [
            made(SETTINGS, 0, 0, &[]),
            made(HEADERS, END_HEADERS, 3, b"whatever"),
            made(DATA, 0, 3, b"hello"),
            made(PING, 0, 0, b"12345678"),
            made(DATA, 0, 1, b"world"),
        ]
        .concat();
        for cut in [1, 5, bytes.len()] {
            let mut connection = Connection::open(2, "/p", "a");
            connection.output.clear();
            let mut found = [Vec::new(), Vec::new()];
            for part in bytes.chunks(cut) {
                connection.receive(part, |stream, data| found[stream].extend_from_slice(data)).unwrap();
            }
            assert_eq!(found, [b"world".to_vec(), b"hello".to_vec()]);
            let expected = [made(SETTINGS, ACK, 0, &[]), made(PING, ACK, 0, b"12345678")].concat();
            assert_eq!(connection.output, expected);
        }
    }

    #[test]
    fn what_the_window_does_not_hold_follows_when_it_opens() {
        let mut connection = Connection::open(1, "/p", "a");
        connection.output.clear();
        connection.send(0, &[7; 70_000]);
        let sent = |output: &[u8]| output.iter().filter(|byte| **byte == 7).count();
        assert!(connection.output.len() > 65_535 && sent(&connection.output) < 65_535);
        let before = connection.output.len();
        connection.receive(&made(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]), |_, _| ()).unwrap();
        assert_eq!(connection.output.len(), before, "the stream's own window is still shut");
        connection.receive(&made(WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0]), |_, _| ()).unwrap();
        assert_eq!(sent(&connection.output), 70_000);
    }

    #[test]
    fn the_end_of_a_stream_is_an_error_that_says_what_the_server_said() {
        let mut connection = Connection::open(1, "/p", "a");
        let ended = connection.receive(&made(HEADERS, END_STREAM, 1, b"grpc-status 3"), |_, _| ());
        assert_eq!(ended, Err(Broken::Ended(1, "grpc-status 3".into())));
    }
}
