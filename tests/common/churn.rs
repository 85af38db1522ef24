//! Users who send heartbeats, fall silent, log out and return at random, and Redis' replies for each of them.
//!
//! With every heartbeat `SET … GET` returns whether the key was still live, and `DEL` returns whether it was.
//! So the test knows the true transitions exactly, whatever the timing.

use super::redis::{Client, Redis, Reply};
use super::socket::Socket;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant, SystemTime};

/// A transition as it happened, or as a client received it.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub online: bool,
    /// Happened: the earliest possible time. Received: the arrival. In milliseconds since the epoch.
    pub at_ms: f64,
    /// The TTL ran out; no command deleted the key.
    pub expired: bool,
}

pub type History = HashMap<String, Vec<Step>>;

#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    pub users: usize,
    pub lasts: Duration,
}

struct Person {
    name: String,
    ttl_ms: u64,
    /// When the key expires, in milliseconds since the epoch, unless it is known to be gone.
    deadline: Option<f64>,
    steps: Vec<Step>,
}

pub fn precise_now_ms() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64() * 1000.0
}

impl Person {
    fn new(i: usize) -> Person {
        // Programs use different TTLs.
        let ttl_ms = [700, 1000, 1500, 2000, 2345][i % 5];
        Person { name: format!("user-{i}"), ttl_ms, deadline: None, steps: Vec::new() }
    }

    fn key(&self) -> String {
        format!("presence:{}", self.name)
    }

    fn ran_out(&mut self) {
        if let Some(at_ms) = self.deadline.take() {
            self.steps.push(Step { online: false, at_ms, expired: true });
        }
    }

    fn beat(&mut self, client: &mut Client) {
        let ttl = self.ttl_ms.to_string();
        let sent = precise_now_ms();
        let before = client.call(&["SET", &self.key(), "1", "PX", &ttl, "GET"]);
        if before == Reply::Nil {
            self.ran_out();
            // A client may receive it from the return of the SET on.
            self.steps.push(Step { online: true, at_ms: precise_now_ms(), expired: false });
        }
        self.deadline = Some(sent + self.ttl_ms as f64);
    }

    fn leave(&mut self, client: &mut Client) {
        let was = client.call(&["DEL", &self.key()]).number() == 1;
        if !was {
            self.ran_out();
        } else if self.deadline.take().is_some() {
            self.steps.push(Step { online: false, at_ms: precise_now_ms(), expired: false });
        }
    }
}

/// Runs a crowd for its time, then lets every key expire. Blocks its thread.
pub fn live(redis: &Redis, crowd: Crowd) -> History {
    let mut client = redis.client();
    let mut people: Vec<Person> = (0..crowd.users).map(Person::new).collect();
    let start = Instant::now();
    let after = |ms: u64| Instant::now() + Duration::from_millis(ms);
    let mut queue: BinaryHeap<_> =
        (0..crowd.users).map(|i| Reverse((after(fastrand::u64(..2000)), i))).collect();
    while let Some(Reverse((at, i))) = queue.pop() {
        if at.duration_since(start) > crowd.lasts {
            break;
        }
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let person = &mut people[i];
        let ttl = person.ttl_ms;
        let next = match fastrand::u32(..100) {
            // Silent: either renewed just in time, or expired.
            0..8 => fastrand::u64(ttl / 2..ttl * 3),
            8..10 => {
                person.leave(&mut client);
                fastrand::u64(..3000)
            }
            10..12 => {
                // Logs out and in again at once.
                person.leave(&mut client);
                person.beat(&mut client);
                ttl / 3
            }
            _ => {
                person.beat(&mut client);
                ttl / 3
            }
        };
        queue.push(Reverse((after(next), i)));
    }
    let longest = Duration::from_millis(2_345 + 50);
    std::thread::sleep(longest);
    people
        .into_iter()
        .map(|mut person| {
            assert_eq!(client.call(&["EXISTS", &person.key()]), Reply::Number(0));
            person.ran_out();
            (person.name, person.steps)
        })
        .collect()
}

/// Collects the transitions that a socket receives, until `done` is over and a second passes without a message.
pub async fn listen(mut socket: Socket, done: impl Future<Output = ()>) -> History {
    let mut received = History::new();
    tokio::pin!(done);
    let mut ended = false;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = &mut done, if !ended => { ended = true; continue }
            // After the end no message should come. The second shows one that does.
            () = tokio::time::sleep(Duration::from_secs(1)), if ended => return received,
        };
        let arrived = precise_now_ms();
        let transitions = message["transitions"].as_array().unwrap_or_else(|| panic!("{message}"));
        for transition in transitions {
            let user = transition["user"].as_str().expect("a name").to_owned();
            received.entry(user).or_default().push(read(transition, arrived));
        }
    }
}

fn read(transition: &Value, arrived: f64) -> Step {
    let online = transition["state"] == "online";
    Step { online, at_ms: arrived, expired: transition["reason"] == "expired" }
}

/// The errors in the received transitions: lost, invented or repeated ones. One line per user.
pub fn differences(happened: &History, received: &History) -> Vec<String> {
    let states = |steps: &Vec<Step>| -> Vec<bool> { steps.iter().map(|step| step.online).collect() };
    let mut wrong = Vec::new();
    for (user, steps) in happened {
        let (expected, got) = (states(steps), received.get(user).map(states).unwrap_or_default());
        if expected != got {
            wrong.push(format!("{user}: happened {expected:?}, received {got:?}"));
        }
    }
    let unknown = received.keys().filter(|user| !happened.contains_key(*user));
    wrong.extend(unknown.map(|user| format!("{user}: received, but no such user")));
    wrong
}

/// Milliseconds from each transition to its arrival, sorted: offline by expiry, offline by DEL, online.
pub fn lags(happened: &History, received: &History) -> [Vec<f64>; 3] {
    let mut lags: [Vec<f64>; 3] = Default::default();
    for (user, steps) in happened {
        for (was, is) in steps.iter().zip(received.get(user).into_iter().flatten()) {
            let kind = if was.online {
                2
            } else if was.expired {
                0
            } else {
                1
            };
            lags[kind].push(is.at_ms - was.at_ms);
        }
    }
    lags.iter_mut().for_each(|lags| lags.sort_by(f64::total_cmp));
    lags
}
