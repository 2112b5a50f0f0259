//! Tries whether one host reaches another, apart from the nodes: a cut that is not felt is none.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cut::Cut;
use crate::hosts::{End, Hosts, socket_address};

/// Where each host takes connections of probes. Not the port of any node.
const PORT: u16 = 7499;
/// A connection between two hosts of one machine takes less than a millisecond; a packet that was lost is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(400);
/// On a machine that is busy, a first connection after the end of a cut may take longer.
const HEALING: Duration = Duration::from_secs(10);
/// Datagrams that measure a loss go here, where nobody listens.
const DISCARD: u16 = 9;
const DATAGRAMS: u64 = 200;

/// Something on each host that can be reached, as long as it is held.
#[derive(Debug)]
pub struct Probes {
    hosts: Arc<Hosts>,
    _answering: JoinSet<()>,
}

impl Probes {
    /// Begins to answer on the host of each node and of the clients.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(hosts: Arc<Hosts>) -> anyhow::Result<Self> {
        let mut answering = JoinSet::new();
        let nodes = (1..=u64::try_from(hosts.len())?).map(End::Node);
        for end in nodes.chain([End::Clients]) {
            let listener = hosts.at(end)?.listen(socket_address(end.address(), PORT))?;
            answering.spawn(answer(listener));
        }
        Ok(Self {
            hosts,
            _answering: answering,
        })
    }

    /// Whether a connection from here to there can be made: packets must pass both ways.
    ///
    /// # Errors
    /// When it could not be tried.
    pub async fn reaches(&self, from: End, to: End) -> anyhow::Result<bool> {
        let socket = self.hosts.at(from)?.socket()?;
        let connecting = socket.connect(socket_address(to.address(), PORT));
        Ok(matches!(
            tokio::time::timeout(PATIENCE, connecting).await,
            Ok(Ok(_))
        ))
    }

    /// Makes sure that each of these silent cuts drops what comes, and says how that was seen.
    ///
    /// # Errors
    /// When one does not.
    pub async fn prove_silence(&self, cuts: &[Cut]) -> anyhow::Result<String> {
        let mut dropped = 0;
        let tries = cuts.iter().map(|cut| self.reaches(cut.from, cut.to));
        let reached = futures::future::try_join_all(tries).await?;
        for (cut, reached) in cuts.iter().zip(reached) {
            ensure!(!reached, "{cut:?} is installed, and a connection goes through");
            let packets = cut.dropped(&self.hosts)?;
            ensure!(packets > 0, "{cut:?} is installed, and drops nothing");
            dropped += packets;
        }
        Ok(format!(
            "{} connections tried in vain, {dropped} packets dropped",
            cuts.len()
        ))
    }

    /// Makes sure that these cuts lose some packets and not all, and says how many.
    ///
    /// # Errors
    /// When one loses none, or all.
    pub async fn prove_loss(&self, cuts: &[Cut]) -> anyhow::Result<String> {
        let mut lost = 0;
        for cut in cuts {
            let before = cut.dropped(&self.hosts)?;
            let target = socket_address(cut.to.address(), DISCARD);
            self.hosts.at(cut.from)?.run(move || -> std::io::Result<()> {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
                for _ in 0..DATAGRAMS {
                    // Nobody listens, and the host says so: that is the error of an earlier one.
                    let _ = socket.send_to(&[0], target);
                }
                Ok(())
            })??;
            let packets = cut.dropped(&self.hosts)? - before;
            // What the nodes send counts too.
            ensure!(
                packets > 0 && packets < DATAGRAMS,
                "{cut:?} lost {packets} of {DATAGRAMS} datagrams"
            );
            lost += packets;
        }
        Ok(format!(
            "{lost} of {} datagrams lost",
            DATAGRAMS * cuts.len() as u64
        ))
    }

    /// Makes sure that these ends reach each other again.
    ///
    /// # Errors
    /// When they do not.
    pub async fn prove_healed(&self, cuts: &[Cut]) -> anyhow::Result<()> {
        let deadline = Instant::now() + HEALING;
        for cut in cuts {
            while !self.reaches(cut.from, cut.to).await? {
                ensure!(
                    Instant::now() < deadline,
                    "{cut:?} was removed, and no connection goes through"
                );
            }
        }
        Ok(())
    }
}

async fn answer(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(stream),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::are_impossible;
    use crate::links::CutKind;

    #[tokio::test]
    async fn cuts_are_felt_one_way_and_both_and_heal() {
        if let Some(why) = are_impossible() {
            println!("SKIPPED: {why}");
            return;
        }
        let hosts = Arc::new(Hosts::make(3).unwrap());
        let probes = Probes::start(hosts.clone()).unwrap();
        let (one, two, three) = (End::Node(1), End::Node(2), End::Node(3));
        let cut = [Cut { from: one, to: two }];
        assert!(probes.prove_silence(&cut).await.is_err(), "there is none yet");

        Cut::install(&hosts, &cut, CutKind::Silent).unwrap();
        probes.prove_silence(&cut).await.unwrap();
        assert!(probes.reaches(one, three).await.unwrap(), "only this one");
        let back = Cut { from: two, to: one };
        assert!(back.dropped(&hosts).is_err(), "and only this way");
        Cut::remove(&hosts, &cut).unwrap();
        probes.prove_healed(&cut).await.unwrap();

        let lossy = Cut::both(one, End::Clients);
        Cut::install(&hosts, &lossy, CutKind::Loss(30)).unwrap();
        println!("{}", probes.prove_loss(&lossy).await.unwrap());
        Cut::remove(&hosts, &lossy).unwrap();
        probes.prove_healed(&lossy).await.unwrap();
    }
}
