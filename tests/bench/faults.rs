//! The effects of each fault on clients.

use crate::common::fault_list::FAULTS;
use crate::common::faults::{CHANGING, TTL, USERS, daemons};
use tokio::runtime::Runtime;

/// One row a fault. `make faults` prints it.
pub fn table(runtime: &Runtime) {
    println!(
        "faults: {USERS} users beat all the time, {USERS} fall silent as it begins, {CHANGING} change their session; TTL {} s; \
         daemons: {}",
        TTL.as_secs(),
        daemons()
    );
    println!(
        "| fault | steady users seen offline | users with a changed session seen offline | silent users not seen offline exactly once | view equals Redis after | all silent seen offline after |"
    );
    println!("|---|---|---|---|---|---|");
    for fault in FAULTS {
        let outcome = runtime.block_on((fault.run)());
        println!(
            "| {} | {} | {} | {} | {:.1} s | {:.1} s |",
            fault.name,
            outcome.steady_blinks.len(),
            outcome.changed_blinks.len(),
            outcome.dead_not_once.len(),
            outcome.equal_after.as_secs_f64(),
            outcome.said_after.as_secs_f64(),
        );
    }
}
