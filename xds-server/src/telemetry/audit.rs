//! Audit events: who did what to which zone, and what the server did about it by itself. One JSON line each on the target
//! `audit`, with an id that sorts by time. Records; decides nothing.

use std::fmt;

use uuid::Uuid;

/// The tracing target of audit events.
pub const TARGET: &str = "audit";

/// How loudly an event calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must look.
    Critical,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A drain was in force when the server started.
    DrainInForce,
    /// A drain began.
    DrainStarted,
    /// A drain was prolonged, or keeps another share.
    DrainChanged,
    /// A drain was taken back before its time.
    DrainRestored,
    /// A drain ended by its own time.
    DrainExpired,
    /// A value in etcd or the file was refused.
    ValueRefused,
    /// A key that was refused is right, or gone.
    ValueAccepted,
    /// A change that would take away too much is held back.
    ChangeHeld,
    /// A held change was undone, and is over.
    ChangeUndone,
    /// A held change was confirmed, and is in force.
    ChangeConfirmed,
    /// A proxy of the first waves refused a resource, which nobody gets until it changes.
    ResourceQuarantined,
    /// It changed, and is tried anew.
    ResourceReleased,
    /// The source of the topology does not answer; the last good state is served.
    SourceLost,
    /// The source answers again.
    SourceRestored,
    /// A changed configuration is in force.
    ConfigReloaded,
    /// A changed configuration was refused; the old one stays.
    ConfigRefused,
    /// Another filter module is sent to the proxies.
    ModuleChanged,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// How loudly it calls.
    pub severity: Severity,
    /// What happened.
    pub action: Action,
    /// Who did it; `zonebreak` for what the server did by itself.
    pub actor: String,
    /// The zone, if it is about one.
    pub zone: Option<String>,
    /// The service, if it is about one.
    pub service: Option<String>,
    /// Why.
    pub reason: String,
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

// === impl Action ===

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DrainInForce => "drain_in_force",
            Self::DrainStarted => "drain_started",
            Self::DrainChanged => "drain_changed",
            Self::DrainRestored => "drain_restored",
            Self::DrainExpired => "drain_expired",
            Self::ValueRefused => "value_refused",
            Self::ValueAccepted => "value_accepted",
            Self::ChangeHeld => "change_held",
            Self::ChangeUndone => "change_undone",
            Self::ChangeConfirmed => "change_confirmed",
            Self::ResourceQuarantined => "resource_quarantined",
            Self::ResourceReleased => "resource_released",
            Self::SourceLost => "source_lost",
            Self::SourceRestored => "source_restored",
            Self::ConfigReloaded => "config_reloaded",
            Self::ConfigRefused => "config_refused",
            Self::ModuleChanged => "module_changed",
        })
    }
}

// === impl Event ===

impl Event {
    /// Something that the server did by itself.
    pub fn own(severity: Severity, action: Action, reason: impl fmt::Display) -> Self {
        let actor = "zonebreak".to_owned();
        Self { severity, action, actor, zone: None, service: None, reason: reason.to_string() }
    }

    /// Writes it down.
    pub fn record(&self) {
        tracing::info!(
            target: TARGET,
            event_id = %Uuid::now_v7(),
            severity = %self.severity,
            source = "zonebreak",
            action = %self.action,
            actor = self.actor,
            zone = self.zone,
            service = self.service,
            reason = self.reason,
        );
    }
}
