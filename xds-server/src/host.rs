//! What this machine is called, for names that others read.

/// The host name, if the system tells one.
pub fn name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}
