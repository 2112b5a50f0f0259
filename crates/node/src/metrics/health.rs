//! Metrics of health: the checks of `/readyz`, as numbers.

use std::fmt;

use super::sheet::Sheet;
use crate::health::{CHECKS, Health};

pub(super) fn write(sheet: &mut Sheet<'_>, health: &Health) -> fmt::Result {
    let checks = || {
        CHECKS
            .iter()
            .map(|check| (check.name, (check.problem)(health).is_none()))
    };
    sheet.gauge(
        "brama_ready",
        "Whether every check passes",
        checks().all(|(_, ok)| ok),
    )?;
    sheet.gauges(
        "brama_check_ok",
        "Whether a check of /readyz passes",
        ["check"],
        checks().map(|(name, ok)| ([name], ok)),
    )?;
    sheet.gauge(
        "brama_core_silence_seconds",
        "Time since consensus and the task that applies the log last answered; they are asked twice a second",
        health.replica.silent_for(),
    )
}
