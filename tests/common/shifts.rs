//! Users who heartbeat all the time, and others who come and go in shifts.
//!
//! One program sends the heartbeats of all of them straight to Redis, through every outage. A shift comes as a whole and leaves as
//! a whole: half of its users log out, the others fall silent.

use super::cluster::Writer;
use super::faults::{BEAT_EVERY, TTL};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Users who heartbeat all the time.
pub const STEADY: usize = 100;
/// Users of one shift.
pub const SHIFT: usize = 40;

/// What the program is to do.
#[derive(Default)]
struct Plan {
    ports: Vec<u16>,
    shifts: Vec<usize>,
    /// Users whose keys are to be deleted.
    leaving: Vec<String>,
    ended: bool,
}

/// See the module's head. The program ends when this is dropped.
pub struct Shifts(Arc<Mutex<Plan>>);

impl Shifts {
    /// Starts the program with the steady users, at the Redis servers of these ports.
    pub fn start(ports: Vec<u16>) -> Shifts {
        let plan = Arc::new(Mutex::new(Plan { ports, ..Plan::default() }));
        let own = plan.clone();
        std::thread::spawn(move || run(&own));
        Shifts(plan)
    }

    pub fn come(&self, shift: usize) {
        self.0.lock().expect("not poisoned").shifts.push(shift);
    }

    pub fn leave(&self, shift: usize) {
        let mut plan = self.0.lock().expect("not poisoned");
        plan.shifts.retain(|&other| other != shift);
        plan.leaving.extend(users_of(shift).into_iter().step_by(2));
    }
}

impl Drop for Shifts {
    fn drop(&mut self) {
        if let Ok(mut plan) = self.0.lock() {
            plan.ended = true;
        }
    }
}

pub fn steady_users() -> Vec<String> {
    (0..STEADY).map(|i| format!("steady-{i}")).collect()
}

pub fn users_of(shift: usize) -> Vec<String> {
    (0..SHIFT).map(|i| format!("shift-{shift}-{i}")).collect()
}

fn run(plan: &Mutex<Plan>) {
    let ttl = TTL.as_millis().to_string();
    let set =
        |user: String| ["SET", &format!("presence:{user}"), "1", "PX", &ttl].map(str::to_owned).to_vec();
    let delete = |user: &String| vec!["DEL".to_owned(), format!("presence:{user}")];
    let mut writer: Option<Writer> = None;
    loop {
        let (shifts, leaving) = {
            let mut plan = plan.lock().expect("not poisoned");
            if plan.ended {
                return;
            }
            (plan.shifts.clone(), std::mem::take(&mut plan.leaving))
        };
        let writer =
            writer.get_or_insert_with(|| Writer::new(plan.lock().expect("not poisoned").ports.clone()));
        let users = steady_users().into_iter().chain(shifts.into_iter().flat_map(users_of));
        let mut sent = writer.send(&leaving.iter().map(delete).collect::<Vec<_>>());
        if !sent {
            plan.lock().expect("not poisoned").leaving.extend(leaving);
        }
        sent &= writer.send(&users.map(set).collect::<Vec<_>>());
        std::thread::sleep(if sent { BEAT_EVERY / 2 } else { Duration::from_millis(50) });
    }
}
