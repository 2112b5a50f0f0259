//! A network between the nodes: connections as TCP has them, with delays, and links that hold back what they are given.
//!
//! A link that is cut loses nothing for ever: TCP sends it again once the link is whole, unless somebody gives the connection up before. On
//! one connection bytes keep their order; between connections there is none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use brama_simulation::Ms;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use crate::world::World;

type Link = (u64, u64);

/// The network. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Network {
    world: Arc<World>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By when they arrive, and in which order they were sent.
    on_the_way: BTreeMap<(Ms, u64), (Link, Packet)>,
    /// What came to a link that is cut.
    held: VecDeque<(Link, Packet)>,
    sent: u64,
    cut: BTreeSet<Link>,
    /// Shortest and longest delay of a link that is not as the others.
    delays: BTreeMap<Link, (Ms, Ms)>,
    usual: (Ms, Ms),
    listeners: BTreeMap<u64, mpsc::UnboundedSender<Stream>>,
    /// Machines without power: they do not even say that nobody listens.
    dark: BTreeSet<u64>,
    /// Connections that are open, to reset them.
    ends: Vec<(Link, std::sync::Weak<Mutex<End>>)>,
}

enum Packet {
    Connect(oneshot::Sender<Stream>),
    Connected(oneshot::Sender<Stream>, Stream),
    Refused(oneshot::Sender<Stream>),
    Data {
        to: Arc<Mutex<End>>,
        bytes: Bytes,
        from: Arc<Mutex<End>>,
    },
    Close(Arc<Mutex<End>>),
    Reset(Arc<Mutex<End>>),
}

/// One end of a connection, as the kernel has it.
#[derive(Default)]
struct End {
    arrived: VecDeque<Bytes>,
    closed: bool,
    reset: bool,
    /// Nobody has the socket any more.
    gone: bool,
    /// Nothing that was sent to it arrives before this.
    not_before: Ms,
    reader: Option<Waker>,
}

impl Network {
    pub(crate) fn new(world: Arc<World>, usual: (Ms, Ms)) -> Self {
        let state = State {
            usual,
            ..State::default()
        };
        Self {
            world,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Connections to this node come here from now on.
    pub(crate) fn listen(&self, node: u64) -> mpsc::UnboundedReceiver<Stream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        state.listeners.insert(node, sender);
        receiver
    }

    /// The node's process is about to end; with its machine's power, if it is `dark`.
    pub(crate) fn down(&self, node: u64, dark: bool) {
        let mut state = self.state.lock();
        let listener = state.listeners.remove(&node);
        if dark {
            state.dark.insert(node);
        }
        drop(state);
        drop(listener);
    }

    /// The machine has power again.
    pub(crate) fn up(&self, node: u64) {
        self.state.lock().dark.remove(&node);
    }

    pub(crate) fn connect(&self, from: u64, to: u64) -> oneshot::Receiver<Stream> {
        let (done, connected) = oneshot::channel();
        self.send((from, to), Packet::Connect(done));
        connected
    }

    /// Nothing gets from one to the other, until [`Network::heal`].
    pub(crate) fn cut(&self, link: Link) {
        self.state.lock().cut.insert(link);
    }

    /// What was held back is sent again.
    pub(crate) fn heal(&self, link: Link) {
        let mut state = self.state.lock();
        if !state.cut.remove(&link) {
            return;
        }
        let (back, held) = std::mem::take(&mut state.held)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(of, _)| *of == link);
        state.held = held;
        // When TCP tries again, it sends all of it; what was sent since comes after.
        let again = self.world.now() + 1 + self.world.draw(0..=200);
        let after = state.on_the_way.extract_if(.., |_, (of, _)| *of == link);
        let after: Vec<_> = after.map(|((at, _), packet)| (at.max(again), packet)).collect();
        let back = back.into_iter().map(|packet| (again, packet));
        for (at, (link, packet)) in back.chain(after) {
            if let Packet::Data { to, .. } | Packet::Close(to) = &packet {
                let mut end = to.lock();
                end.not_before = end.not_before.max(at);
            }
            state.sent += 1;
            let sent = state.sent;
            state.on_the_way.insert((at, sent), (link, packet));
        }
    }

    pub(crate) fn slow_down(&self, link: Link, delay: (Ms, Ms)) {
        self.state.lock().delays.insert(link, delay);
    }

    pub(crate) fn speed_up(&self, link: Link) {
        self.state.lock().delays.remove(&link);
    }

    /// Ends all connections between two nodes.
    pub(crate) fn reset(&self, a: u64, b: u64) {
        let mut ends = Vec::new();
        self.state.lock().ends.retain(|(link, end)| {
            let end = end.upgrade();
            if let Some(end) = &end
                && (*link == (a, b) || *link == (b, a))
            {
                ends.push(end.clone());
            }
            end.is_some()
        });
        for end in ends {
            reset(&end);
        }
    }

    fn send(&self, link: Link, packet: Packet) {
        let mut state = self.state.lock();
        let (least, most) = state.delays.get(&link).copied().unwrap_or(state.usual);
        let mut at = self.world.now() + self.world.draw(least..=most);
        if let Packet::Data { to, .. } | Packet::Close(to) = &packet {
            let mut end = to.lock();
            at = at.max(end.not_before);
            end.not_before = at;
        }
        state.sent += 1;
        let sent = state.sent;
        state.on_the_way.insert((at, sent), (link, packet));
    }

    /// Hands over what has arrived by now.
    pub(crate) fn deliver(&self) {
        loop {
            let (link, packet) = {
                let mut state = self.state.lock();
                let Some(first) = state.on_the_way.first_entry() else {
                    return;
                };
                if first.key().0 > self.world.now() {
                    return;
                }
                let (link, packet) = first.remove();
                if state.cut.contains(&link) {
                    state.held.push_back((link, packet));
                    continue;
                }
                (link, packet)
            };
            self.arrive(link, packet);
        }
    }

    fn arrive(&self, link: Link, packet: Packet) {
        let (from, to) = link;
        if self.state.lock().dark.contains(&to) {
            return self.lose(packet);
        }
        match packet {
            Packet::Connect(done) => {
                let listener = self.state.lock().listeners.get(&to).cloned();
                let (near, far) = self.pair(from, to);
                match listener {
                    Some(listener) if listener.send(far).is_ok() => {
                        self.send((to, from), Packet::Connected(done, near));
                    }
                    _ => self.send((to, from), Packet::Refused(done)),
                }
            }
            // Who asked may have given up; then the stream closes.
            Packet::Connected(done, stream) => drop(done.send(stream)),
            Packet::Refused(done) => drop(done),
            Packet::Data {
                to: end,
                bytes,
                from: back,
            } => {
                self.world.feel([self.world.now(), from, to, bytes.len() as u64]);
                let mut end = end.lock();
                if end.gone {
                    drop(end);
                    self.send((to, from), Packet::Reset(back));
                } else if !end.reset {
                    end.arrived.push_back(bytes);
                    wake(end);
                }
            }
            Packet::Close(end) => {
                let mut end = end.lock();
                end.closed = true;
                wake(end);
            }
            Packet::Reset(end) => reset(&end),
        }
    }

    /// What a machine without power was sent. Who connects waits for its own patience.
    fn lose(&self, packet: Packet) {
        if let Packet::Connect(done) = packet {
            let mut state = self.state.lock();
            let later = self.world.now() + 10_000;
            state.sent += 1;
            let sent = state.sent;
            state
                .on_the_way
                .insert((later, sent), ((0, 0), Packet::Refused(done)));
        }
    }

    fn pair(&self, from: u64, to: u64) -> (Stream, Stream) {
        let ends = [Arc::default(), Arc::default()];
        let mut state = self.state.lock();
        state.ends.retain(|(_, end)| end.strong_count() > 0);
        for end in &ends {
            state.ends.push(((from, to), Arc::downgrade(end)));
        }
        drop(state);
        let [near, far] = ends;
        let stream = |link, mine: &Arc<Mutex<End>>, theirs: &Arc<Mutex<End>>| Stream {
            network: self.clone(),
            link,
            mine: mine.clone(),
            theirs: theirs.clone(),
            closed: false,
        };
        (stream((from, to), &near, &far), stream((to, from), &far, &near))
    }
}

fn wake(mut end: parking_lot::MutexGuard<'_, End>) {
    let reader = end.reader.take();
    drop(end);
    if let Some(reader) = reader {
        reader.wake();
    }
}

fn reset(end: &Mutex<End>) {
    let mut end = end.lock();
    end.reset = true;
    wake(end);
}

/// A connection, as a process has it.
pub(crate) struct Stream {
    network: Network,
    /// From this end to the other.
    link: Link,
    mine: Arc<Mutex<End>>,
    theirs: Arc<Mutex<End>>,
    closed: bool,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut mine = self.mine.lock();
        if mine.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if let Some(bytes) = mine.arrived.front_mut() {
            let taken = bytes.split_to(bytes.len().min(buffer.remaining()));
            buffer.put_slice(&taken);
            if bytes.is_empty() {
                mine.arrived.pop_front();
            }
            return Poll::Ready(Ok(()));
        }
        if mine.closed {
            return Poll::Ready(Ok(()));
        }
        mine.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed || self.mine.lock().reset {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let packet = Packet::Data {
            to: self.theirs.clone(),
            bytes: Bytes::copy_from_slice(bytes),
            from: self.mine.clone(),
        };
        self.network.send(self.link, packet);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.network.send(self.link, Packet::Close(self.theirs.clone()));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.mine.lock().gone = true;
        // A machine without power says nothing.
        let dark = self.network.state.lock().dark.contains(&self.link.0);
        if !dark {
            self.close();
        }
    }
}
