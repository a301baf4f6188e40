//! Looks at the processes at the four moments that matter: before the connections, with them, at the beginning and at the
//! end of the measured time; and at the machine at the last two.

use std::time::Duration;

use anyhow::Result;

use super::{
    others::Machine,
    process::{Processes, Usage},
};
use crate::account::report::{Cost, Moments, Report, Traffic, percent, round};

#[derive(Debug)]
pub(crate) struct Observer {
    server: Processes,
    beside: Processes,
    before: Option<Usage>,
    connected: Option<Usage>,
    looks: Option<(Look, Look)>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    server: Option<Usage>,
    beside: Option<Usage>,
    own: Usage,
    machine: Machine,
    arrived: u64,
}

impl Observer {
    /// Before the connections.
    pub(crate) fn new(server: Processes, beside: Processes) -> Result<Self> {
        let before = server.usage()?;
        Ok(Self { server, beside, before, connected: None, looks: None })
    }

    /// With them.
    pub(crate) fn connected(&mut self) -> Result<()> {
        self.connected = self.server.usage()?;
        Ok(())
    }

    /// The measured time begins.
    pub(crate) fn begin(&mut self, arrived: u64) -> Result<()> {
        let look = self.look(arrived)?;
        self.looks = Some((look, look));
        Ok(())
    }

    /// The measured time ends.
    pub(crate) fn end(&mut self, arrived: u64) -> Result<()> {
        let look = self.look(arrived)?;
        self.looks = self.looks.map(|(begin, _)| (begin, look));
        Ok(())
    }

    /// Writes what was seen into the report; `sent` and `behind` are the producer's.
    pub(crate) fn tell(&self, report: &mut Report, what: &'static str, sent: u64, behind: u64) {
        let Some((begin, end)) = self.looks else { return };
        let (seconds, arrived) = (report.seconds, end.arrived.saturating_sub(begin.arrived));
        let arrived_per_second = round(arrived as f64 / seconds, 1);
        report.traffic = (sent > 0).then_some(Traffic { what, sent, behind, arrived, arrived_per_second });
        let used = |begin: Option<Usage>, end: Option<Usage>| match (begin, end) {
            (Some(begin), Some(end)) => end.cpu.saturating_sub(begin.cpu),
            _ => Duration::ZERO,
        };
        let own = end.own.cpu.saturating_sub(begin.own.cpu);
        report.bench_cpu_percent = percent(own, seconds);
        let (server, beside) = (used(begin.server, end.server), used(begin.beside, end.beside));
        report.beside_cpu_percent = end.beside.map(|_| percent(beside, seconds));
        if let (Some(before), Some(connected), Some(begin_usage), Some(end_usage)) =
            (self.before, self.connected, begin.server, end.server)
        {
            let moments = Moments { before, connected, begin: begin_usage, end: end_usage };
            report.server = Some(Cost::of(&moments, seconds, arrived, report.connections));
            report.disturbance = Some(end.machine.disturbance(begin.machine, own + server + beside, seconds));
        }
    }

    fn look(&self, arrived: u64) -> Result<Look> {
        let (server, beside, own) = (self.server.usage()?, self.beside.usage()?, Processes::own()?);
        Ok(Look { server, beside, own, machine: Machine::now()?, arrived })
    }
}
