//! A network between two processes, as slow and as broken as a test wants it: a TCP proxy that delays each direction, cuts
//! connections, or swallows what is sent. Bytes are never changed, reordered or lost within a connection.
//!
//! The delay is a queue with a due time for each piece, so that it adds latency and takes no throughput away. Packet loss is not
//! modelled: TCP hides it from both ends anyway, as delay.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use super::LabError;

/// Pieces on their way in one direction: 8192 of 16 KiB are 128 MiB, more than any link here has in flight.
const IN_FLIGHT: usize = 8192;

/// How a link behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Bytes come through.
    Open,
    /// Connections are reset, new ones too.
    Cut,
    /// Connections stay, and nothing comes through.
    BlackHole,
    /// Connections stay, what clients send comes through, and what is answered does not.
    Mute,
}

/// What every connection goes by.
#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// How often the link was cut. A connection ends when this moves on, be the link mended again before it has looked.
    cuts: u64,
}

/// A link to one address.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    one_way_us: Arc<AtomicU64>,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

// === impl Link ===

impl Link {
    /// Opens a link to `target`, with this delay in each direction.
    pub async fn open(target: SocketAddr, one_way: Duration) -> Result<Self, LabError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(LabError::io("open a link"))?;
        let address = listener.local_addr().map_err(LabError::io("open a link"))?;
        let one_way_us = Arc::new(AtomicU64::new(micros(one_way)));
        let state = watch::Sender::new(State { mode: Mode::Open, cuts: 0 });
        let (delay, states) = (Arc::clone(&one_way_us), state.subscribe());
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (delay, mut states) = (Arc::clone(&delay), states.clone());
                let before = states.borrow().cuts;
                tokio::spawn(async move {
                    // A connection lives for as long as the link is not cut.
                    let mut watched = states.clone();
                    tokio::select! {
                        // First: what was held back is not let through by a link that was mended since.
                        biased;
                        _ = watched.wait_for(|now| now.mode == Mode::Cut || now.cuts != before) => {}
                        () = carry(near, target, &delay, &mut states) => {}
                    }
                });
            }
        });
        Ok(Self { address, one_way_us, state, task })
    }

    /// Where clients connect: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the delay in each direction, for what is sent from now on.
    pub fn delay(&self, one_way: Duration) {
        self.one_way_us.store(micros(one_way), Ordering::Relaxed);
    }

    /// Resets all connections, and new ones.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Cut, cuts: state.cuts + 1 });
    }

    /// Lets nothing through, and says nothing about it.
    pub fn swallow(&self) {
        self.turn(Mode::BlackHole);
    }

    /// Lets requests through and swallows the answers.
    pub fn mute(&self) {
        self.turn(Mode::Mute);
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        self.turn(Mode::Open);
    }

    fn turn(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    one_way_us: &Arc<AtomicU64>,
    states: &mut watch::Receiver<State>,
) {
    // A close becomes a reset: what a broken link looks like.
    let _ = near.set_zero_linger();
    let _ = near.set_nodelay(true);
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = far.set_nodelay(true);
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(
        pass(near_in, far_out, &[Mode::BlackHole], Arc::clone(one_way_us), states.clone()),
        pass(far_in, near_out, &[Mode::BlackHole, Mode::Mute], Arc::clone(one_way_us), states.clone()),
    );
}

/// One direction, which is closed while the link is in one of these modes.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    closed: &[Mode],
    one_way_us: Arc<AtomicU64>,
    mut states: watch::Receiver<State>,
) {
    let (send, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let reading = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_micros(one_way_us.load(Ordering::Relaxed));
            let piece = buffer.get(..read).unwrap_or_default().to_vec();
            if send.send((due, piece)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = queue.recv().await {
            tokio::time::sleep_until(due).await;
            if states.wait_for(|now| !closed.contains(&now.mode)).await.is_err()
                || to.write_all(&piece).await.is_err()
            {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server, and a connection to it through a link.
    async fn echo(one_way: Duration) -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::open(listener.local_addr().unwrap(), one_way).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let stream = TcpStream::connect(link.address).await.unwrap();
        (link, stream)
    }

    #[tokio::test]
    async fn a_delay_adds_latency_and_takes_no_throughput_away() {
        let one_way = Duration::from_millis(200);
        let (_link, mut stream) = echo(one_way).await;
        let begun = Instant::now();
        let mut back = vec![0; 100];
        // A hundred pieces, one after the other: with a delay for each they would take forty seconds.
        for piece in 0..100_u8 {
            stream.write_all(&[piece]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stream.read_exact(&mut back).await.unwrap();
        assert!(back.iter().copied().eq(0..100));
        assert!(begun.elapsed() >= 2 * one_way);
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_black_hole_is_silent_and_a_cut_is_not() {
        let (link, mut stream) = echo(Duration::ZERO).await;
        let mut byte = [0];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        link.swallow();
        stream.write_all(b"b").await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut byte)).await;
        assert!(silent.is_err(), "nothing comes through");
        link.mend();
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b", "and nothing was lost");
        link.cut();
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
    }

    /// On one thread no connection looks in between. Nothing that was held back before is let through after.
    #[tokio::test]
    async fn a_cut_that_is_mended_at_once_ends_what_was_open_all_the_same() {
        let (link, _stream) = echo(Duration::ZERO).await;
        let mut byte = [0];
        for _ in 0..20 {
            let mut stream = TcpStream::connect(link.address).await.unwrap();
            stream.write_all(b"a").await.unwrap();
            stream.read_exact(&mut byte).await.unwrap();
            link.mute();
            stream.write_all(b"b").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            link.cut();
            link.mend();
            assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)), "it lives on");
        }
        let mut anew = TcpStream::connect(link.address).await.unwrap();
        anew.write_all(b"b").await.unwrap();
        anew.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
    }
}
