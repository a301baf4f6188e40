//! Looks at the processes at the four moments that matter: before the connections, with them, at the beginning and at the
//! end of the measured time.

use anyhow::Result;

use crate::{
    process::{Processes, Usage},
    report::{Cost, Moments, Report, Traffic, percent, round},
};

#[derive(Debug)]
pub(crate) struct Observer {
    server: Processes,
    before: Option<Usage>,
    connected: Option<Usage>,
    begin: Look,
    end: Look,
}

#[derive(Debug, Clone, Copy, Default)]
struct Look {
    server: Option<Usage>,
    own: Option<Usage>,
    arrived: u64,
}

impl Observer {
    /// Before the connections.
    pub(crate) fn new(server: Processes) -> Result<Self> {
        let before = server.usage()?;
        Ok(Self { server, before, connected: None, begin: Look::default(), end: Look::default() })
    }

    /// With them.
    pub(crate) fn connected(&mut self) -> Result<()> {
        self.connected = self.server.usage()?;
        Ok(())
    }

    /// The measured time begins.
    pub(crate) fn begin(&mut self, arrived: u64) -> Result<()> {
        self.begin = self.look(arrived)?;
        Ok(())
    }

    /// The measured time ends.
    pub(crate) fn end(&mut self, arrived: u64) -> Result<()> {
        self.end = self.look(arrived)?;
        Ok(())
    }

    /// Writes what was seen into the report; `sent` and `behind` are the producer's.
    pub(crate) fn tell(&self, report: &mut Report, what: &'static str, sent: u64, behind: u64) {
        let (seconds, arrived) = (report.seconds, self.end.arrived - self.begin.arrived);
        let arrived_per_second = round(arrived as f64 / seconds, 1);
        report.traffic = (sent > 0).then_some(Traffic { what, sent, behind, arrived, arrived_per_second });
        if let (Some(before), Some(connected), Some(begin), Some(end)) =
            (self.before, self.connected, self.begin.server, self.end.server)
        {
            let moments = Moments { before, connected, begin, end };
            report.server = Some(Cost::of(&moments, seconds, arrived, report.connections));
        }
        if let (Some(begin), Some(end)) = (self.begin.own, self.end.own) {
            report.bench_cpu_percent = percent(end.cpu.saturating_sub(begin.cpu), seconds);
        }
    }

    fn look(&self, arrived: u64) -> Result<Look> {
        Ok(Look { server: self.server.usage()?, own: Processes::own().usage()?, arrived })
    }
}
