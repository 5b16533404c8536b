//! Many clients in one process and on one thread: sockets in, figures out. What a client says is in `client.rs`.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::client::{Client, Fleet, Has, Returning};
use super::frames::Connection;
use super::plan::{Plan, ZONES};
use super::scan::{Response, Scan};

/// What one read takes from a socket at most; all connections share the buffer.
const READ: usize = 256 << 10;

/// Connected clients. Dropping it closes all connections at once.
#[derive(Debug)]
pub(super) struct Swarm {
    tally: Rc<Tally>,
    _connections: JoinSet<()>,
}

/// A stream that was told of a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    /// The newest change it was told of before, and now.
    pub(super) before: u64,
    pub(super) change: u64,
}

/// What was received, all streams together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Received {
    pub(super) responses: usize,
    pub(super) resources: usize,
    pub(super) bytes: usize,
}

/// What the connections tell.
#[derive(Debug)]
struct Tally {
    received: Cell<Received>,
    /// How many streams have all they asked for at the beginning.
    settled: Cell<usize>,
    arrivals: RefCell<Vec<Arrival>>,
    /// The newest change that each stream was told of.
    told: RefCell<Vec<u64>>,
    /// The change that is waited for, and how many streams have not been told of it.
    target: Cell<u64>,
    behind: Cell<usize>,
    has: RefCell<[Has; ZONES]>,
    failure: RefCell<Option<String>>,
    /// Rung when a wait may be over.
    bell: Notify,
}

// === impl Swarm ===

impl Swarm {
    /// Opens all connections. With `has`, the clients come back with that, and `change` is what they wait for.
    pub(super) fn connect(address: SocketAddr, plan: &Plan, resumed: Option<([Has; ZONES], u64)>) -> Self {
        let fleet = Fleet::new(plan.speaks, plan.services);
        let (has, target) = resumed.unwrap_or_default();
        let returning = (target > 0).then(|| {
            let all: [Returning; ZONES] = std::array::from_fn(|zone| Returning::new(&fleet, &has[zone]));
            Rc::new(all)
        });
        let tally = Rc::new(Tally {
            received: Cell::default(),
            settled: Cell::default(),
            arrivals: RefCell::default(),
            told: RefCell::new(vec![0; plan.streams]),
            target: Cell::new(target),
            behind: Cell::new(plan.streams),
            has: RefCell::new(has),
            failure: RefCell::default(),
            bell: Notify::new(),
        });
        let buffer = Rc::new(RefCell::new(vec![0; READ]));
        let mut connections = JoinSet::new();
        for index in 0..plan.connections {
            let numbers = (index..plan.streams).step_by(plan.connections).collect::<Vec<_>>();
            let (fleet, tally, buffer) = (fleet.clone(), tally.clone(), buffer.clone());
            let returning = returning.clone();
            connections.spawn_local(async move {
                let failure = run(address, fleet, &numbers, returning, &tally, &buffer).await;
                let Err(failure) = failure;
                tally.failure.borrow_mut().get_or_insert(failure.to_string());
                tally.bell.notify_one();
            });
        }
        Self { tally, _connections: connections }
    }

    /// Waits until every stream has all it asked for at the beginning.
    pub(super) async fn settled(&self, streams: usize, within: Duration) -> anyhow::Result<()> {
        self.wait(within, || self.tally.settled.get() >= streams).await
    }

    /// From now on [`Swarm::reached`] waits for this change.
    pub(super) fn expect(&self, change: u64) {
        self.tally.target.set(change);
        self.tally.behind.set(self.tally.told.borrow().iter().filter(|told| **told < change).count());
    }

    /// Waits until every stream was told of the change expected.
    pub(super) async fn reached(&self, within: Duration) -> anyhow::Result<()> {
        self.wait(within, || self.tally.behind.get() == 0).await
    }

    /// What arrived since this was asked last.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.tally.arrivals.take()
    }

    pub(super) fn received(&self) -> Received {
        self.tally.received.get()
    }

    /// What the clients of each zone have now.
    pub(super) fn has(&self) -> [Has; ZONES] {
        self.tally.has.borrow().clone()
    }

    async fn wait(&self, within: Duration, over: impl Fn() -> bool) -> anyhow::Result<()> {
        let waiting = async {
            while !over() {
                if let Some(failure) = self.tally.failure.borrow().as_ref() {
                    anyhow::bail!("failed to keep a client connected: {failure}");
                }
                self.tally.bell.notified().await;
            }
            Ok(())
        };
        tokio::time::timeout(within, waiting).await.unwrap_or_else(|_| {
            let (settled, behind) = (self.tally.settled.get(), self.tally.behind.get());
            anyhow::bail!(
                "not over within {within:?}: {settled} streams settled, {behind} not told of the change"
            )
        })
    }
}

// === impl Tally ===

impl Tally {
    fn take(&self, number: usize, before: u64, change: u64, response: &Response) {
        let mut received = self.received.get();
        received.responses += 1;
        received.resources += response.resources;
        received.bytes += response.bytes;
        self.received.set(received);
        // The first client of each zone speaks for all of it.
        if number < ZONES {
            self.has.borrow_mut()[Client::zone(number)].learn(response);
        }
        if change > before {
            self.told.borrow_mut()[number] = change;
            self.arrivals.borrow_mut().push(Arrival { at: Instant::now(), before, change });
            let target = self.target.get();
            if before < target && change >= target {
                self.behind.set(self.behind.get() - 1);
                if self.behind.get() == 0 {
                    self.bell.notify_one();
                }
            }
        }
    }
}

/// Serves the clients of one connection for as long as it lasts.
async fn run(
    address: SocketAddr,
    fleet: Rc<Fleet>,
    numbers: &[usize],
    returning: Option<Rc<[Returning; ZONES]>>,
    tally: &Tally,
    buffer: &RefCell<Vec<u8>>,
) -> anyhow::Result<std::convert::Infallible> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let speaks = fleet.speaks();
    let mut connection = Connection::open(numbers.len(), speaks.path(), &address.to_string());
    let mut clients: Vec<Client> = numbers.iter().map(|number| Client::new(fleet.clone(), *number)).collect();
    let mut scans: Vec<Scan> = numbers.iter().map(|number| Scan::new(speaks, *number < ZONES)).collect();
    for (stream, client) in clients.iter_mut().enumerate() {
        match &returning {
            None => connection.send(stream, &client.begin()),
            Some(returning) => {
                let requests = client.resume(&returning[Client::zone(numbers[stream])]);
                requests.iter().for_each(|request| connection.send(stream, request));
            }
        }
    }
    let mut done = Vec::new();
    loop {
        if !connection.output.is_empty() {
            socket.write_all(&connection.output).await?;
            connection.output.clear();
        }
        socket.readable().await?;
        {
            let mut buffer = buffer.borrow_mut();
            match socket.try_read(&mut buffer) {
                Ok(0) => anyhow::bail!("the server closed the connection"),
                Ok(read) => connection.receive(&buffer[..read], |stream, data| {
                    scans[stream].feed(data, |response| done.push((stream, response)));
                })?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (stream, response) in done.drain(..) {
            let client = &mut clients[stream];
            let before = client.change;
            let settled = client.take(&response, |bytes| connection.send(stream, bytes));
            tally.take(numbers[stream], before, client.change, &response);
            if settled {
                tally.settled.set(tally.settled.get() + 1);
                tally.bell.notify_one();
            }
        }
    }
}
