//! What this machine is called, and who works on it, for names that others read.

/// The host name, if the system tells one.
pub fn name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Who runs this, as others will know them.
pub fn actor() -> String {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.unwrap_or_else(|| "unknown".to_owned());
    name().map_or(user.clone(), |host| format!("{user}@{host}"))
}
