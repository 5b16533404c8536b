//! Where the phases play: the world, its load and the screen. Runs one phase at a time, looks ten times a second, keeps the
//! block of the phase up to date and its row in the end. Breaks nothing; that is the script in `phases.rs`.

use std::{
    collections::BTreeMap,
    io::Stdout,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::time::MissedTickBehavior;
use zonebreak_drill::{
    lab::{Fault, LabError, Load},
    world::World,
};

use super::{
    figures::Window,
    look::Look,
    screen::{self, Screen},
    table::{Cell, Layout, Row},
};

/// Between two looks: fine against the seconds that a return takes; each look costs Envoy a millisecond.
const TICK: Duration = Duration::from_millis(100);

/// Looks for each time that the block is redrawn: as often as an eye can follow figures.
const LOOKS_PER_FRAME: u32 = 3;

/// Everything that a phase needs.
#[derive(Debug)]
pub struct Stage<'a> {
    /// What is shown, to be broken.
    pub world: &'a mut World,
    load: &'a Load,
    screen: &'a mut Screen<Stdout>,
    title: String,
    /// What a command said that was run in the phase.
    output: Vec<String>,
    began: Instant,
    /// What the phase's errors are counted from.
    base: Look,
    /// When the phase began.
    first: Look,
    last: Look,
    /// What there is to say of the phase beside its figures.
    notes: Vec<String>,
    rows: Vec<Row>,
}

// === impl Stage ===

impl<'a> Stage<'a> {
    /// An empty stage.
    pub async fn new(world: &'a mut World, load: &'a Load, screen: &'a mut Screen<Stdout>) -> Result<Self> {
        let look = take(world).await?;
        Ok(Self {
            world,
            load,
            screen,
            title: String::new(),
            output: Vec::new(),
            began: look.at,
            base: look.clone(),
            first: look.clone(),
            last: look,
            notes: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Begins a phase and draws it.
    pub async fn begin(&mut self, title: &str) -> Result<()> {
        self.title = title.to_owned();
        self.output.clear();
        self.notes.clear();
        self.began = Instant::now();
        self.last = take(self.world).await?;
        self.first = self.last.clone();
        self.base = self.last.clone();
        self.draw()
    }

    /// Breaks or mends a zone and says when. The phase's errors are counted from here.
    pub async fn fault(&mut self, zone: &str, fault: Fault) -> Result<Instant> {
        let at = Instant::now();
        self.world.backends.zone(zone).set_fault(fault);
        // After the change, so that nothing from before it is among them.
        self.base = take(self.world).await?;
        Ok(at)
    }

    /// Looks and draws until `done` says so, or `limit` is over. `done` may replace the phase's notes.
    pub async fn watch(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&World, &Look, &mut Vec<String>) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut ticks = tokio::time::interval(TICK);
        // A machine that has no time for us gets fewer looks, not more at once.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            ticks.tick().await;
            self.last = take(self.world).await?;
            let done = done(self.world, &self.last, &mut self.notes) || self.last.at >= deadline;
            if done || tick.is_multiple_of(LOOKS_PER_FRAME) {
                self.draw()?;
            }
            if done {
                break;
            }
        }
        Ok(())
    }

    /// Goes on for a time.
    pub async fn hold(&mut self, time: Duration) -> Result<()> {
        self.watch(time, |_, _, _| false).await
    }

    /// Adds something to say.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Shows what a command said.
    pub fn said(&mut self, output: Vec<String>) {
        self.output = output;
    }

    /// Ends the phase: its row stays. Says when it was.
    pub fn end(&mut self) -> Result<Window> {
        let window = Window::since(self.began);
        let row = self.row();
        self.screen.print(&row.lines(self.layout())).context("failed to print a phase")?;
        self.rows.push(row);
        Ok(window)
    }

    /// Times that breakers opened in this phase so far, by zone.
    pub fn opened(&self) -> BTreeMap<String, u64> {
        let pairs = self.last.zones.iter().zip(&self.first.zones);
        pairs.map(|(now, then)| (now.zone.clone(), now.opened.saturating_sub(then.opened))).collect()
    }

    /// The requests so far.
    pub const fn load(&self) -> &'a Load {
        self.load
    }

    /// The last look.
    pub const fn last(&self) -> &Look {
        &self.last
    }

    /// The rows of all phases that ended.
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    fn layout(&self) -> Layout {
        Layout { width: screen::width(), unicode: self.screen.ability().unicode }
    }

    fn draw(&mut self) -> Result<()> {
        let lines = self.row().lines(self.layout());
        self.screen.draw(&lines).context("failed to draw a phase")
    }

    fn row(&self) -> Row {
        let summary = self.load.summary(self.began, Instant::now());
        let cell = |(now, then): (&super::look::ZoneLook, &super::look::ZoneLook)| {
            let (ok, failed) = (now.ok.saturating_sub(then.ok), now.failed.saturating_sub(then.failed));
            let all = ok + failed;
            Cell {
                zone: now.zone.clone(),
                share_percent: now.share,
                error_percent: (all > 0).then(|| 100.0 * failed as f64 / all as f64),
                breaker: now.breaker,
            }
        };
        Row {
            number: self.rows.len() + 1,
            title: self.title.clone(),
            output: self.output.clone(),
            seconds: self.began.elapsed().as_secs_f64(),
            requests: summary.total.requests,
            failed: summary.total.failed,
            retried: self.last.retried.saturating_sub(self.first.retried),
            over_budget: self.last.over_budget.saturating_sub(self.first.over_budget),
            zones: self.last.zones.iter().zip(&self.base.zones).map(cell).collect(),
            notes: self.notes.clone(),
            proxies: self.last.fleet,
        }
    }
}

/// A look; an error that brings the end of Envoy's log when Envoy is what failed.
async fn take(world: &mut World) -> Result<Look> {
    match Look::take(world).await {
        Ok(look) => Ok(look),
        Err(error) => {
            let envoy = world.envoy.process();
            Err(failed_to(match envoy.exited() {
                Some(status) => LabError::Exited { what: "Envoy".to_owned(), status, tail: envoy.log_tail() },
                None => error,
            }))
        }
    }
}

/// The whole sentence that an error of the lab finishes.
pub fn failed_to(error: LabError) -> anyhow::Error {
    anyhow::anyhow!("failed to {error}")
}
