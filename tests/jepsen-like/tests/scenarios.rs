//! Each scenario with small counts, against the `brama` binary beside this test (`cargo build -p brama-cli`) or the one that `BRAMA_BIN`
//! names. `scripts/faults --all` runs them in full.

use std::future::Future;
use std::time::Duration;

use brama_faults::disk::Disk;
use brama_faults::findings::{Findings, Verdict};
use brama_faults::lossy::LossyMount;
use brama_faults::run::{Keep, RunOptions, run};
use brama_faults::scenario;
use brama_faults::workload::Mix;
use tokio::sync::Mutex;

/// Each scenario has three processes and measures time: one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// A busy machine can hide whether something is on time. Then nothing is broken, but nothing is shown either: it is played again.
const TRIES: u32 = 3;

async fn holds<Played>(scenario: impl Fn() -> Played)
where
    Played: Future<Output = anyhow::Result<Findings>>,
{
    let _turn = ONE_AT_A_TIME.lock().await;
    for tried in 1..=TRIES {
        let findings = scenario().await.expect("the scenario can be played");
        println!("{findings}");
        if findings.verdict() == Verdict::Unknown && tried < TRIES {
            continue;
        }
        assert_eq!(findings.verdict(), Verdict::Holds, "\n{findings}");
        return;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_broken_by_random_faults() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let options = RunOptions {
        seconds: 5,
        seed: 1,
        clients: 6,
        nodes: 3,
        faults: None,
        mix: Mix::Everything,
        small_log: false,
        keep: Keep::IfBroken,
        report: None,
    };
    let findings = run(options).await.unwrap();
    println!("{findings}");
    // Too short to have everything happen: some of it cannot be told.
    assert_ne!(findings.verdict(), Verdict::Broken, "\n{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_after_the_leaders_death() {
    holds(|| scenario::kill_leader(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_reports_survive_the_death_of_all_nodes() {
    holds(|| scenario::kill_all(2, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_openings_end_together_on_time() {
    holds(|| scenario::many_due(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_is_seen_elsewhere_at_once() {
    holds(|| scenario::visibility(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over() {
    holds(scenario::sigterm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_replaced_and_one_without_its_data_is_refused() {
    holds(scenario::membership).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_out() {
    if let Err(error) = scenario::small_disks() {
        println!("SKIPPED: {error:#}");
        return;
    }
    holds(|| scenario::full_disk(Duration::from_secs(3), 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_reports_survive_power_cuts() {
    if let Some(why) = Disk::is_impossible() {
        println!("SKIPPED: {why}");
        return;
    }
    holds(|| scenario::power(2, 1, 1)).await;
}

fn lossy_disks() -> bool {
    if let Some(why) = LossyMount::is_impossible() {
        println!("SKIPPED: {why}");
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn acknowledged_reports_survive_disks_that_tear_what_was_not_synced() {
    if lossy_disks() {
        holds(|| scenario::lossy_power(4, 1, 7, 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn a_node_whose_sync_failed_stops_and_comes_back() {
    if lossy_disks() {
        holds(|| scenario::fsync_error(1, 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn a_slow_disk_stops_neither_writes_nor_timers() {
    if lossy_disks() {
        holds(|| scenario::slow_disk(Duration::from_secs(6), 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn a_voter_without_its_data_is_refused_and_gives_no_vote() {
    holds(|| scenario::wiped_voter(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_told_or_costs_nothing() {
    holds(|| scenario::damage(scenario::Extent::Short, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_wall_clock_moves_no_timer() {
    if scenario::library().is_none() {
        println!("SKIPPED: libfaketime is not installed (Debian: apt-get install faketime)");
        return;
    }
    holds(|| scenario::faketime(scenario::Machine::Busy)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_clients_agrees() {
    holds(|| scenario::fleet(60, 2, 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_outcomes_are_few_batches_and_each_counts_once() {
    holds(|| scenario::busy(100_000, 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_node_stopped_decisions_go_on() {
    holds(|| scenario::stopped(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_to_whoever_can_take_it() {
    holds(|| scenario::transfer(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn members_change_while_others_die() {
    holds(|| scenario::churn(2, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn streams_of_a_leader_that_stops_go_on_elsewhere() {
    holds(|| scenario::drain(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_no_harm() {
    holds(|| scenario::hostile(20, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_costs_a_watcher_nothing() {
    holds(|| scenario::crowd(500, 2000)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn nodes_with_little_of_a_processor_keep_their_leader() {
    if let Err(error) = scenario::can_starve() {
        println!("SKIPPED: {error:#}");
        return;
    }
    holds(|| scenario::starved(20, 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn clients_do_without_a_cluster_that_is_dead_slow_or_flapping() {
    holds(|| scenario::unreachable(6, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn a_leader_that_was_stopped_shows_nothing_stale() {
    let lengths = [Duration::from_secs(2)];
    holds(|| scenario::pause_leader(&lengths, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn openings_are_not_stretched_by_a_quiet_log() {
    holds(|| scenario::idle(Duration::from_secs(5))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn openings_end_when_they_are_due_whoever_leads() {
    holds(|| scenario::leader_churn(Duration::from_secs(14), 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn cursors_wait_for_a_node_and_are_told_the_truth() {
    holds(|| scenario::cursors(Duration::from_secs(5), 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_learns_everything_from_snapshots() {
    holds(|| scenario::snapshot_twice(1, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/faults --all plays it in full; not yet shown to be steady on a busy machine"]
async fn all_nodes_are_restarted_while_writes_go_on() {
    holds(|| scenario::rolling(2, 1)).await;
}
