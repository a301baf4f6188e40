//! A TCP connection with a switch: between a node and its Redis, or a client and its node, when a test
//! wants the network to be late, to stall, to break, or to forget.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// What the proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    /// They pass.
    Flowing,
    /// They wait, in both directions; new connections are accepted and wait too.
    Stalled(Whose),
    /// All connections are closed, new ones are closed at once.
    Cut,
}

/// Whose connections to Redis a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Everybodys,
    /// Those that have sent `SUBSCRIBE`.
    Subscribers,
    /// The others.
    Commands,
}

/// Everything that is wrong at the moment.
#[derive(Clone, Copy, Debug)]
struct Weather {
    network: Network,
    late_by: Duration,
    /// Replies to commands are later than that by this much.
    replies_late_by: Duration,
    /// Connections with a lower number are forgotten.
    forgotten: u64,
    /// Connections with a lower number are reset.
    reset: u64,
}

/// Passes TCP connections on to one address. Gone, with its connections, when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepted: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl TcpProxy {
    /// Listens on a free loopback port and passes everything on to `target` (`host:port`).
    pub async fn to(target: impl Into<String>) -> Self {
        let target = target.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener");
        let on_time = Duration::ZERO;
        let network = Network::Flowing;
        let fine = Weather { network, late_by: on_time, replies_late_by: on_time, forgotten: 0, reset: 0 };
        let (weather, watching) = watch::channel(fine);
        let accepted = Arc::<AtomicU64>::default();
        let counting = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            // Dropped with this task: no connection outlives the proxy.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = counting.fetch_add(1, Ordering::Relaxed);
                let subscribes = AtomicBool::new(false);
                let road = Road { number, subscribes: Arc::new(subscribes), weather: watching.clone() };
                connections.spawn(serve(client, target.clone(), road));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, weather, accepted, task }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Bytes stand still: the peers see neither data nor an end.
    pub fn stall(&self) {
        self.set(Network::Stalled(Whose::Everybodys));
    }

    /// Between a node and Redis: what is published does not reach the node, its commands are answered.
    pub fn stall_subscribers(&self) {
        self.set(Network::Stalled(Whose::Subscribers));
    }

    /// Between a node and Redis: commands are not answered, what is published reaches the node.
    pub fn stall_commands(&self) {
        self.set(Network::Stalled(Whose::Commands));
    }

    /// Closes every connection, and every new one until `resume`.
    pub fn cut(&self) {
        self.set(Network::Cut);
    }

    /// Bytes pass again, in time; stalled ones arrive now.
    pub fn resume(&self) {
        self.weather.send_modify(|weather| {
            weather.network = Network::Flowing;
            (weather.late_by, weather.replies_late_by) = (Duration::ZERO, Duration::ZERO);
        });
    }

    /// Between a node and Redis: replies to commands are this late. Commands, and what is published, pass in time.
    pub fn delay_replies(&self, late_by: Duration) {
        self.weather.send_modify(|weather| weather.replies_late_by = late_by);
    }

    /// Everything is this late, in each direction.
    pub fn delay(&self, late_by: Duration) {
        self.weather.send_modify(|weather| weather.late_by = late_by);
    }

    /// Resets every connection that there is; new ones pass.
    pub fn reset(&self) {
        let now = self.accepted.load(Ordering::Relaxed);
        self.weather.send_modify(|weather| weather.reset = now);
    }

    /// Forgets every connection that there is, as a router that was restarted: whatever is sent on it vanishes, and neither
    /// side hears of the other's end. New ones pass.
    pub fn forget(&self) {
        let now = self.accepted.load(Ordering::Relaxed);
        self.weather.send_modify(|weather| weather.forgotten = now);
    }

    fn set(&self, network: Network) {
        self.weather.send_modify(|weather| weather.network = network);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, as the weather sees it.
#[derive(Clone, Debug)]
struct Road {
    number: u64,
    subscribes: Arc<AtomicBool>,
    weather: watch::Receiver<Weather>,
}

/// Why a pump stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Ended,
    Reset,
    Forgotten,
}

async fn serve(mut client: TcpStream, target: String, road: Road) {
    if road.clone().passable().await.is_err() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    // Small frames must not wait for each other in here.
    drop(client.set_nodelay(true));
    drop(server.set_nodelay(true));
    let stop = {
        let (mut client_reads, mut client_writes) = client.split();
        let (mut server_reads, mut server_writes) = server.split();
        // Either direction's end ends both: a half-closed connection is not what these tests are about.
        tokio::select! {
            stop = pump(&mut client_reads, &mut server_writes, road.clone(), Direction::Forth) => stop,
            stop = pump(&mut server_reads, &mut client_writes, road, Direction::Back) => stop,
        }
    };
    match stop {
        Stop::Ended => {}
        Stop::Reset => {
            drop(client.set_zero_linger());
            drop(server.set_zero_linger());
        }
        Stop::Forgotten => {
            tokio::join!(vanish(client), vanish(server));
        }
    }
}

/// Reads what nobody gets, and goes away only when this peer does.
async fn vanish(mut peer: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while matches!(peer.read(&mut buffer).await, Ok(count) if count > 0) {}
}

/// From which peer bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forth,
    Back,
}

async fn pump(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, mut road: Road, direction: Direction) -> Stop {
    let mut buffer = vec![0; 16 * 1024];
    // What was read, and when it is passed on. Late bytes do not make those behind them later still.
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut ended = false;
    loop {
        let due = under_way.front().map(|(due, _)| *due);
        if due.is_none() && ended {
            // A forgotten connection's end is not passed on.
            return road.passable().await.err().unwrap_or(Stop::Ended);
        }
        tokio::select! {
            biased;
            stop = road.clone().blocked() => return stop,
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                let Some((_, bytes)) = under_way.pop_front() else { continue };
                if let Err(stop) = road.passable().await {
                    return stop;
                }
                if to.write_all(&bytes).await.is_err() {
                    return Stop::Ended;
                }
            }
            read = from.read(&mut buffer), if !ended && under_way.len() < MOST_UNDER_WAY => {
                let bytes = match read {
                    Ok(count) if count > 0 => buffer.get(..count).unwrap_or_default().to_vec(),
                    _ => {
                        ended = true;
                        continue;
                    }
                };
                if bytes.windows(SUBSCRIBE.len()).any(|window| window.eq_ignore_ascii_case(SUBSCRIBE)) {
                    road.subscribes.store(true, Ordering::Relaxed);
                }
                under_way.push_back((Instant::now() + road.late_by(direction), bytes));
            }
        }
    }
}

/// Pieces that are late, in one direction of one connection.
const MOST_UNDER_WAY: usize = 1000;

const SUBSCRIBE: &[u8] = b"\r\nSUBSCRIBE\r\n";

impl Road {
    /// How late what comes from there is.
    fn late_by(&self, direction: Direction) -> Duration {
        let Weather { late_by, replies_late_by, .. } = *self.weather.borrow();
        let is_reply = direction == Direction::Back && !self.subscribes.load(Ordering::Relaxed);
        if is_reply { late_by + replies_late_by } else { late_by }
    }

    /// Returns when bytes may pass.
    async fn passable(&mut self) -> Result<(), Stop> {
        let Self { number, subscribes, weather } = self;
        let stands = |now: &Weather| match now.network {
            Network::Stalled(Whose::Everybodys) => true,
            Network::Stalled(Whose::Subscribers) => subscribes.load(Ordering::Relaxed),
            Network::Stalled(Whose::Commands) => !subscribes.load(Ordering::Relaxed),
            Network::Flowing | Network::Cut => false,
        };
        let now = weather.wait_for(|now| stopped(*number, now).is_some() || !stands(now)).await;
        now.map_or(Err(Stop::Ended), |now| stopped(*number, &now).map_or(Ok(()), Err))
    }

    /// Returns when the connection is at its end, or the proxy is gone.
    async fn blocked(mut self) -> Stop {
        let number = self.number;
        let now = self.weather.wait_for(|now| stopped(number, now).is_some()).await;
        now.ok().and_then(|now| stopped(number, &now)).unwrap_or(Stop::Ended)
    }
}

fn stopped(number: u64, now: &Weather) -> Option<Stop> {
    match now {
        _ if number < now.reset => Some(Stop::Reset),
        _ if number < now.forgotten => Some(Stop::Forgotten),
        Weather { network: Network::Cut, .. } => Some(Stop::Ended),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.into_split();
                    drop(tokio::io::copy(&mut reads, &mut writes).await);
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) {
        stream.write_all(text).await.expect("written");
    }

    async fn hears(stream: &mut TcpStream) -> Vec<u8> {
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        buffer[..count].to_vec()
    }

    #[tokio::test]
    async fn bytes_pass_stall_and_pass_again() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut stream, b"one").await;
        assert_eq!(hears(&mut stream).await, b"one");
        proxy.stall();
        says(&mut stream, b"two").await;
        let early = timeout(Duration::from_millis(100), hears(&mut stream)).await;
        assert!(early.is_err(), "stalled bytes arrived: {early:?}");
        proxy.resume();
        assert_eq!(hears(&mut stream).await, b"two");
    }

    #[tokio::test]
    async fn a_cut_closes_old_and_new_connections_until_it_is_resumed() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut old = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut old, b"one").await;
        assert_eq!(hears(&mut old).await, b"one");
        proxy.cut();
        assert_eq!(hears(&mut old).await, b"", "the old connection ends");
        let mut new = TcpStream::connect(proxy.address()).await.expect("proxy");
        assert_eq!(hears(&mut new).await, b"", "a new connection ends");
        proxy.resume();
        let mut again = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut again, b"back").await;
        assert_eq!(hears(&mut again).await, b"back");
    }

    #[tokio::test]
    async fn a_reset_ends_old_connections_and_lets_new_ones_pass() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut old = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut old, b"one").await;
        assert_eq!(hears(&mut old).await, b"one");
        proxy.reset();
        let end = old.read_u8().await.expect_err("no data").kind();
        assert_eq!(end, std::io::ErrorKind::ConnectionReset);
        let mut new = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut new, b"two").await;
        assert_eq!(hears(&mut new).await, b"two");
    }

    #[tokio::test]
    async fn a_forgotten_connection_hears_nothing_for_ever_not_even_the_others_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = TcpProxy::to(listener.local_addr().expect("bound").to_string()).await;
        let mut near = TcpStream::connect(proxy.address()).await.expect("proxy");
        let (mut far, _) = listener.accept().await.expect("passed on");
        proxy.forget();
        says(&mut near, b"one").await;
        drop(near);
        let early = timeout(Duration::from_millis(100), hears(&mut far)).await;
        assert!(early.is_err(), "the far side heard something: {early:?}");
        let mut new = TcpStream::connect(proxy.address()).await.expect("proxy");
        let (mut far, _) = listener.accept().await.expect("new ones pass");
        says(&mut new, b"two").await;
        assert_eq!(hears(&mut far).await, b"two");
    }

    #[tokio::test]
    async fn subscribers_and_commands_stall_apart() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut subscriber = TcpStream::connect(proxy.address()).await.expect("proxy");
        let mut commands = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut subscriber, b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n").await;
        assert!(!hears(&mut subscriber).await.is_empty());
        for stalled in ["subscribers", "commands"] {
            let (still, moving) = match stalled {
                "subscribers" => (&mut subscriber, &mut commands),
                _ => (&mut commands, &mut subscriber),
            };
            if stalled == "subscribers" {
                proxy.stall_subscribers();
            } else {
                proxy.stall_commands();
            }
            says(still, b"one").await;
            says(moving, b"two").await;
            assert_eq!(hears(moving).await, b"two");
            let early = timeout(Duration::from_millis(100), hears(still)).await;
            assert!(early.is_err(), "stalled bytes arrived: {early:?}");
            proxy.resume();
            assert_eq!(hears(still).await, b"one");
        }
    }

    #[tokio::test]
    async fn late_replies_are_those_to_commands() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut subscriber = TcpStream::connect(proxy.address()).await.expect("proxy");
        let mut commands = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut subscriber, b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n").await;
        assert!(!hears(&mut subscriber).await.is_empty());
        proxy.delay_replies(Duration::from_secs(3600));
        says(&mut commands, b"one").await;
        says(&mut subscriber, b"two").await;
        assert_eq!(hears(&mut subscriber).await, b"two");
        let early = timeout(Duration::from_millis(100), hears(&mut commands)).await;
        assert!(early.is_err(), "a late reply arrived: {early:?}");
    }

    #[tokio::test]
    async fn delayed_bytes_are_late() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut stream, b"one").await;
        assert_eq!(hears(&mut stream).await, b"one");
        proxy.delay(Duration::from_millis(150));
        let began = std::time::Instant::now();
        says(&mut stream, b"two").await;
        assert_eq!(hears(&mut stream).await, b"two");
        assert!(began.elapsed() >= Duration::from_millis(300), "there and back: {:?}", began.elapsed());
    }
}
