//! First starts that are cut short: the power goes just before, or just after, each of the syncs of a node that begins with an empty disk; or the process is killed
//! there, starts again, and then the power goes. Each time the node must be able to begin, or to go on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_proto::v1;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::cluster::{find_binary, free_address, status};
use crate::findings::Findings;
use crate::lossy::{LossyDisk, LossyMount, Mode, Moment, Trigger};
use crate::node::{Node, NodeSpec};
use crate::rpc::Nodes;

const DISK_MIB: u64 = 64;
/// A node that is a cluster of its own leads within this.
const PATIENCE: Duration = Duration::from_secs(20);
/// A first start has fewer syncs.
const MOST_SYNCS: u32 = 60;

/// What happens at a sync.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Cut(Moment, Option<u64>),
    /// And the power goes when it leads.
    Kill(Moment),
}

/// All of it, at every `stride`-th sync.
///
/// # Errors
/// When it could not be done.
pub(super) async fn cut_short(stride: u32, seed: u64, findings: &mut Findings) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut starts, mut most) = (0, 0);
    for kind in 0..6 {
        let mut sync = 1 + rng.random_range(0..stride);
        loop {
            let torn = Some(rng.random());
            let blow = match kind {
                0 => Blow::Cut(Moment::BeforeSync, None),
                1 => Blow::Cut(Moment::AfterSync, None),
                2 => Blow::Cut(Moment::BeforeSync, torn),
                3 => Blow::Cut(Moment::AfterSync, torn),
                4 => Blow::Kill(Moment::BeforeSync),
                _ => Blow::Kill(Moment::AfterSync),
            };
            let bench = Bench::new()?;
            match bench.play(blow, sync).await {
                // There were no more syncs.
                Ok(false) => break,
                Ok(true) => starts += 1,
                Err(error) => {
                    findings.broken(
                        "G8",
                        format!("a first start with {blow:?} at sync {sync}: {error:#}"),
                    );
                    return Ok(());
                }
            }
            most = most.max(sync);
            sync += stride;
            if sync > MOST_SYNCS {
                bail!("a first start never ends: it has more than {MOST_SYNCS} syncs");
            }
        }
    }
    findings.figure(
        "first starts that were cut short",
        format!("{starts}, at up to {most} syncs each before and after"),
    );
    findings.checked("G8", "a first start that was cut short goes on, or begins anew");
    if starts == 0 {
        findings.untold("no first start was cut short");
    }
    Ok(())
}

/// A cluster of one node, on a lossy disk. The node ends before its disk.
struct Bench {
    node: Node,
    mount: LossyMount,
    nodes: Nodes,
    _folder: TempDir,
}

impl Bench {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("brama-faults-").tempdir()?;
        let client = free_address(&[])?;
        let peer = free_address(&[client])?;
        let spec = NodeSpec {
            id: 1,
            client,
            peer,
            peer_address: peer,
            host: None,
            folder: folder.path().to_owned(),
            env: Vec::new(),
        };
        let node = Node::new(find_binary()?, spec);
        configure(&node, &node.config_path())?;
        Ok(Self {
            mount: LossyMount::new(&node.data_dir(), DISK_MIB)?,
            node,
            nodes: Nodes::new([client])?,
            _folder: folder,
        })
    }

    /// Whether there was a sync with that number before the node led.
    async fn play(&self, blow: Blow, sync: u32) -> anyhow::Result<bool> {
        let disk = self.mount.disk();
        let (moment, mode) = match blow {
            Blow::Cut(moment, torn) => (moment, Some(torn.map_or(Mode::Clear, Mode::Torn))),
            Blow::Kill(moment) => (moment, None),
        };
        disk.cut_at(Trigger {
            moment,
            sync,
            mode,
            others: Vec::new(),
        });
        self.node.start()?;
        if !self.is_struck_before_it_leads(disk).await? {
            return Ok(false);
        }
        self.end().await?;
        self.begin().await.context("after it was cut short")?;
        if matches!(blow, Blow::Kill(_)) {
            disk.cut();
            self.end().await?;
            self.begin()
                .await
                .context("after it was killed, had led, and lost power")?;
        }
        Ok(true)
    }

    async fn is_struck_before_it_leads(&self, disk: &LossyDisk) -> anyhow::Result<bool> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if disk.holds() || !disk.is_on() {
                return Ok(true);
            }
            if self.leads().await {
                // What follows is not its start any more.
                return Ok(!disk.disarm());
            }
            self.check(deadline)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The process goes, and the power is back.
    async fn end(&self) -> anyhow::Result<()> {
        self.node.send_kill()?;
        self.mount.disk().release();
        self.node.kill().await?;
        self.mount.disk().power_up();
        Ok(())
    }

    async fn begin(&self) -> anyhow::Result<()> {
        self.node.start()?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.leads().await {
            self.check(deadline)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn leads(&self) -> bool {
        let status = status(&self.nodes, 0).await;
        status.is_some_and(|status| status.role() == v1::Role::Leader && status.has_quorum)
    }

    fn check(&self, deadline: tokio::time::Instant) -> anyhow::Result<()> {
        if let Some(status) = self.node.exit_status()? {
            bail!("the node ended by itself: {status}\n{}", self.node.log_tail(8));
        }
        if tokio::time::Instant::now() > deadline {
            bail!("it does not lead after {PATIENCE:?}\n{}", self.node.log_tail(8));
        }
        Ok(())
    }
}

fn configure(node: &Node, path: &Path) -> anyhow::Result<()> {
    let spec = &node.spec;
    let text = format!(
        "[node]\nid = {}\ndata_dir = {:?}\nclient_listen = \"{}\"\npeer_listen = \"{}\"\n\n[cluster]\nname = \"alone\"\n\
         members = [{{ id = {}, peer = \"{}\" }}]\n\n[log]\nformat = \"json\"\n",
        spec.id,
        node.data_dir().display().to_string(),
        spec.client,
        spec.peer,
        spec.id,
        spec.peer
    );
    Ok(std::fs::write(path, text)?)
}
