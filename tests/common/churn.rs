//! People who beat, fall silent, log out and return at random, and what Redis itself said of each.
//!
//! `SET … GET` tells with every heartbeat whether the key was still there, and `DEL` whether it had
//! been. So the true transitions are known exactly, whatever the timing.

use super::redis::{Client, Redis, Reply};
use super::socket::Socket;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant, SystemTime};

/// A transition as it happened or as it was told.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub online: bool,
    /// Happened: when, in milliseconds since the epoch, as early as it can have been. Told: arrival.
    pub at_ms: f64,
    /// Happened by running out, not by a command.
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
    /// When the key runs out, if it is believed live.
    deadline: Option<f64>,
    steps: Vec<Step>,
}

pub fn precise_now_ms() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64() * 1000.0
}

impl Person {
    fn new(i: usize) -> Person {
        // Some have two devices, and TTLs differ as programs do.
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
            // Told from the SET's return on.
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

/// Lets a crowd live for its time, then lets everybody run out. Blocking.
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
            // Silent: perhaps for so short that the key is renewed just in time, perhaps for good.
            0..8 => fastrand::u64(ttl / 2..ttl * 3),
            8..10 => {
                person.leave(&mut client);
                fastrand::u64(..3000)
            }
            10..12 => {
                // Out and in again within a moment.
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

/// Takes in what a socket that watches everybody is told of the crowd, until `steps` have come or nothing
/// more comes for a while.
pub async fn listen(mut socket: Socket, done: impl Future<Output = ()>) -> History {
    let mut told = History::new();
    tokio::pin!(done);
    let mut ended = false;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = &mut done, if !ended => { ended = true; continue }
            // After the end nothing should come at all; what does is told too.
            () = tokio::time::sleep(Duration::from_secs(1)), if ended => return told,
        };
        let arrived = precise_now_ms();
        let transitions = message["transitions"].as_array().unwrap_or_else(|| panic!("{message}"));
        for transition in transitions {
            let user = transition["user"].as_str().expect("a name").to_owned();
            told.entry(user).or_default().push(read(transition, arrived));
        }
    }
}

fn read(transition: &Value, arrived: f64) -> Step {
    let online = transition["state"] == "online";
    Step { online, at_ms: arrived, expired: transition["reason"] == "expired" }
}

/// What is wrong with what was told, if anything: lost, invented, twice.
pub fn differences(happened: &History, told: &History) -> Vec<String> {
    let states = |steps: &Vec<Step>| -> Vec<bool> { steps.iter().map(|step| step.online).collect() };
    let mut wrong = Vec::new();
    for (user, steps) in happened {
        let (expected, got) = (states(steps), told.get(user).map(states).unwrap_or_default());
        if expected != got {
            wrong.push(format!("{user}: happened {expected:?}, told {got:?}"));
        }
    }
    let unknown = told.keys().filter(|user| !happened.contains_key(*user));
    wrong.extend(unknown.map(|user| format!("{user}: told, but nobody's")));
    wrong
}

/// Milliseconds from what happened to its arrival: (offline by expiry, offline by DEL, online).
pub fn lags(happened: &History, told: &History) -> [Vec<f64>; 3] {
    let mut lags: [Vec<f64>; 3] = Default::default();
    for (user, steps) in happened {
        for (was, is) in steps.iter().zip(told.get(user).into_iter().flatten()) {
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
