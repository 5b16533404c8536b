//! Puts together what the streams of one connection say in the same moment, so that it goes out in one piece.
//!
//! A change wakes every stream of a connection, one after the other, and HTTP/2 writes what the first one says before the second is
//! heard: as many calls of the kernel and packets, on both sides, as there are streams. So what is written is held until the
//! connection's task has its next turn, before which the other streams have theirs. Where that brings nothing together it is not
//! done again, but for a try now and then: a proxy that has a connection to itself waits for nobody.
//!
//! It holds [`MOST`] bytes at most, and none for longer than [`TURNS`] turns of the task. It must be told of each turn, by
//! [`Gather::turn`], and whoever flushes must do so in each: HTTP/2 does, TLS does not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// The most bytes that are held.
const MOST: usize = 32 << 10;

/// What is written in one call and is longer than this, in bytes, is not held: it comes of a start, and not of a small change that many
/// are told, and to put it together saves little.
const LONG: usize = 4 << 10;

/// After so many turns all is written, though more keeps coming.
const TURNS: u8 = 2;

/// After so many times that nothing came together nothing is held any more, but for one time in [`TRY`].
const ENOUGH: u8 = 4;
const TRY: u8 = 16;

/// What one connection has to write.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    held: Vec<u8>,
    /// How much of it is written already.
    written: usize,
    /// Whether something was written since the last flush.
    fresh: bool,
    /// How many flushes the held bytes are of.
    parts: u32,
    /// How many turns the task has had since the first of them, and whether it is to have another.
    turns: u8,
    woken: bool,
    /// How often in a row there was only one part; begins anew at [`TRY`].
    alone: u8,
}

// === impl Gather ===

impl Gather {
    /// The connection's task has begun a turn.
    pub(crate) fn turn(&mut self) {
        if !self.held.is_empty() {
            self.turns = self.turns.saturating_add(1);
            self.woken = false;
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        mut to: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = slices.iter().map(|slice| slice.len()).sum();
        if len > LONG || self.held.len() + len > MOST {
            ready!(self.poll_out(to.as_mut(), context))?;
        }
        self.fresh = true;
        if self.held.is_empty() && (self.alone >= ENOUGH || len > LONG) {
            return to.poll_write_vectored(context, slices);
        }
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        Poll::Ready(Ok(len))
    }

    pub(crate) fn poll_flush(
        &mut self,
        mut to: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let fresh = std::mem::take(&mut self.fresh);
        self.parts += u32::from(fresh);
        if self.held.is_empty() {
            self.count();
            return to.poll_flush(context);
        }
        // In its later turns the task flushes after each stream, and once more when it has heard all of them.
        let over = self.turns >= TURNS || self.turns > 0 && !fresh;
        if over {
            ready!(self.poll_out(to.as_mut(), context))?;
            return to.poll_flush(context);
        }
        if !self.woken {
            self.woken = true;
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all that is held.
    pub(crate) fn poll_out(
        &mut self,
        mut to: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.held.get(self.written..) {
            let written = ready!(to.as_mut().poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        if !self.held.is_empty() {
            // Given back: most connections are silent most of the time.
            (self.held, self.written, self.turns, self.woken) = (Vec::new(), 0, 0, false);
            self.parts += u32::from(std::mem::take(&mut self.fresh));
            self.count();
        }
        Poll::Ready(Ok(()))
    }

    /// Learns from what was just written.
    fn count(&mut self) {
        match std::mem::take(&mut self.parts) {
            0 => {}
            1 => self.alone = if self.alone + 1 < TRY { self.alone + 1 } else { ENOUGH - 1 },
            _ => self.alone = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use proptest::prelude::*;

    use super::*;

    /// A socket that takes so many bytes at a time, and remembers the calls. Before each of them it may be full for a while.
    struct Socket {
        takes: usize,
        full: std::vec::IntoIter<bool>,
        calls: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.full.next() == Some(true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let takes = bytes.len().min(self.takes);
            self.calls.push(bytes[..takes].to_vec());
            Poll::Ready(Ok(takes))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// A connection's task, and how often it is due.
    struct Task {
        gather: Gather,
        socket: Socket,
        due: Arc<Woken>,
    }

    impl Task {
        fn new(takes: usize) -> Self {
            Self::with(takes, Vec::new())
        }

        fn with(takes: usize, full: Vec<bool>) -> Self {
            let socket = Socket { takes, full: full.into_iter(), calls: Vec::new() };
            Self { gather: Gather::default(), socket, due: Arc::default() }
        }

        /// One turn with a socket that may be full: what it does not come to is left in `rest` for the next.
        fn try_turn(&mut self, rest: &mut VecDeque<Vec<u8>>) -> Poll<()> {
            let waker = Waker::from(self.due.clone());
            let context = &mut Context::from_waker(&waker);
            self.gather.turn();
            while let Some(part) = rest.front_mut() {
                while !part.is_empty() {
                    let slices = [IoSlice::new(part)];
                    let written =
                        ready!(self.gather.poll_write(Pin::new(&mut self.socket), context, &slices));
                    part.drain(..written.unwrap());
                }
                rest.pop_front();
                ready!(self.gather.poll_flush(Pin::new(&mut self.socket), context)).unwrap();
            }
            self.gather.poll_flush(Pin::new(&mut self.socket), context).map(Result::unwrap)
        }

        /// One turn, in which these are written and flushed one by one, as HTTP/2 does.
        fn turn(&mut self, parts: &[&[u8]]) {
            let waker = Waker::from(self.due.clone());
            let context = &mut Context::from_waker(&waker);
            self.gather.turn();
            for part in parts {
                let mut rest = *part;
                while !rest.is_empty() {
                    let slices = [IoSlice::new(rest)];
                    let written = self.gather.poll_write(Pin::new(&mut self.socket), context, &slices);
                    let Poll::Ready(Ok(written)) = written else { panic!("{written:?}") };
                    rest = &rest[written..];
                }
                assert!(self.gather.poll_flush(Pin::new(&mut self.socket), context).is_ready());
            }
            assert!(self.gather.poll_flush(Pin::new(&mut self.socket), context).is_ready());
        }

        /// Whether the task was woken since this was asked last.
        fn is_due(&self) -> bool {
            self.due.0.swap(0, Relaxed) > 0
        }
    }

    #[test]
    fn what_several_streams_say_goes_out_in_one_piece() {
        let mut task = Task::new(usize::MAX);
        for _ in 0..100 {
            task.turn(&[b"a"]);
            assert!(task.is_due());
            task.turn(&[b"b", b"c"]);
            task.is_due();
            assert_eq!(std::mem::take(&mut task.socket.calls), [b"abc"]);
        }
    }

    #[test]
    fn who_speaks_alone_is_soon_not_held_up_any_more() {
        let mut task = Task::new(usize::MAX);
        let mut held = 0;
        for _ in 0..160 {
            task.turn(&[b"a"]);
            if task.is_due() {
                held += 1;
                task.turn(&[]);
            }
            assert_eq!(std::mem::take(&mut task.socket.calls), [b"a"]);
        }
        assert!((4..20).contains(&held), "{held}");
        // Others come, and are gathered after a while.
        let mut calls = Vec::new();
        for _ in 0..16 {
            task.turn(&[b"a"]);
            task.turn(&[b"b", b"c"]);
            task.turn(&[]);
            calls.push(std::mem::take(&mut task.socket.calls).len());
        }
        assert_eq!(calls.last(), Some(&1), "{calls:?}");
    }

    proptest! {
        /// However often the socket is full: who is woken as often as that asks for it has written all, in its order, and whoever
        /// closes the connection has, too.
        #[test]
        fn a_socket_that_is_full_loses_nothing_and_holds_nothing_back(
            lengths in proptest::collection::vec(1..20_000usize, 0..20),
            takes in prop_oneof![Just(usize::MAX), 1..10_000usize],
            full in proptest::collection::vec(any::<bool>(), 0..200),
            turns in 0..40usize,
        ) {
            let mut task = Task::with(takes, full);
            let parts = lengths.iter().zip(1u8..).map(|(len, number)| vec![number; *len]);
            let mut rest: VecDeque<Vec<u8>> = parts.collect();
            let said: Vec<u8> = rest.iter().flatten().copied().collect();
            for _ in 0..turns {
                if task.try_turn(&mut rest).is_ready() && !task.is_due() {
                    break;
                }
                prop_assert!(task.gather.held.len() <= MOST);
            }
            // The end of the connection, with whatever is held.
            let left: usize = rest.iter().map(Vec::len).sum();
            let waker = Waker::from(task.due.clone());
            let context = &mut Context::from_waker(&waker);
            while task.gather.poll_out(Pin::new(&mut task.socket), context).is_pending() {
                prop_assert!(task.due.0.swap(0, Relaxed) > 0, "nobody would ask again");
            }
            prop_assert!(task.socket.calls.concat() == said[..said.len() - left]);
        }

        #[test]
        fn everything_is_written_in_its_order_and_soon(
            turns in proptest::collection::vec(proptest::collection::vec(1..20_000usize, 0..4), 1..30),
            takes in prop_oneof![Just(usize::MAX), 1..10_000usize],
        ) {
            let mut task = Task::new(takes);
            let (mut said, mut number) = (Vec::new(), 0u8);
            for lengths in &turns {
                let parts: Vec<Vec<u8>> = lengths.iter().map(|len| { number = number.wrapping_add(1); vec![number; *len] }).collect();
                let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                task.turn(&parts);
                said.extend(parts.concat());
                prop_assert!(task.gather.held.len() <= MOST);
                let waits = task.gather.held.len();
                prop_assert!(waits == 0 || task.is_due(), "{waits} bytes wait for nothing");
            }
            for _ in 0..=TURNS {
                task.turn(&[]);
            }
            prop_assert!(task.socket.calls.concat() == said);
            prop_assert!(task.gather.held.capacity() == 0);
        }
    }
}
