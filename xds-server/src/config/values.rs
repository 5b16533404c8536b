//! The values of the configuration that have rules of their own. Each is checked where it is read, so that the error can say
//! where it stands; none looks anything up.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tracing_subscriber::EnvFilter;

macro_rules! text_value {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl $type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

/// An etcd client URL: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EtcdEndpoint(String);

/// What every key starts with: a path that begins and ends with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(String);

/// A SHA-256 as 64 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

/// What is logged: a level (`info`), or levels by module (`info,zonebreak_xds=debug`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

/// The form of the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How the filter's module reaches the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Inside the xDS response: nothing to install beside the proxy.
    #[default]
    Bytes,
    /// As the path of a file that is already there for the proxy to read.
    Path,
}

/// Reads an address to listen on.
///
/// # Errors
/// Says how one is written.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("an address to listen on is written IP:PORT, such as 0.0.0.0:18000, not {text:?}")
    })
}

/// Reads an IP address.
///
/// # Errors
/// Says how one is written.
pub fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("an address is an IP such as 127.0.0.1, without a port, not {text:?}"))
}

/// [`listen`] for serde.
pub(super) fn read_listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    listen(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// [`ip`] for serde.
pub(super) fn read_ip<'de, D: Deserializer<'de>>(from: D) -> Result<IpAddr, D::Error> {
    ip(&String::deserialize(from)?).map_err(D::Error::custom)
}

text_value!(EtcdEndpoint);
text_value!(Prefix);
text_value!(Sha256Hex);
text_value!(LogFilter);

// === impl EtcdEndpoint ===

impl FromStr for EtcdEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('/');
        let (scheme, authority) = match text.split_once("://") {
            None => ("http", text),
            Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
            Some(_) => ("", ""),
        };
        let well_formed = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || c == '/')
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if well_formed {
            Ok(Self(format!("{scheme}://{authority}")))
        } else {
            Err(format!("an etcd endpoint is written http://host:port or https://host:port, not {text:?}"))
        }
    }
}

// === impl Prefix ===

impl Default for Prefix {
    fn default() -> Self {
        Self("/zonebreak/v1/".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > 1 && text.starts_with('/') && text.ends_with('/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("a key prefix begins and ends with '/', such as /zonebreak/v1/, not {text:?}"))
        }
    }
}

// === impl Sha256Hex ===

impl Sha256Hex {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl FromStr for Sha256Hex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("a sha256 is 64 hexadecimal digits (as sha256sum prints them), not {text:?}"))
        }
    }
}

// === impl LogFilter ===

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl LogFilter {
    /// For the subscriber.
    pub fn directives(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let known = |level: &str| LEVELS.contains(&level.to_ascii_lowercase().as_str());
        // EnvFilter takes any word for a module that is logged whole, so a mistyped level would turn logging off.
        let sound = |part: &str| match part.trim().rsplit_once('=') {
            Some((_, level)) => known(level),
            None => known(part.trim()),
        };
        let plain: String = text.split_whitespace().collect();
        if text.split(',').all(sound) && EnvFilter::try_new(&plain).is_ok() {
            Ok(Self(plain))
        } else {
            Err(format!(
                "a log level is off, error, warn, info, debug or trace, or levels by module such as \
                 info,zonebreak_xds=debug, not {text:?}"
            ))
        }
    }
}

// === impl LogFormat ===

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("a log format is text or json, not {text:?}")),
        }
    }
}

// === impl Delivery ===

impl FromStr for Delivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bytes" => Ok(Self::Bytes),
            "path" => Ok(Self::Path),
            _ => Err(format!("the module is delivered as bytes or path, not {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_with_a_port() {
        for (text, reads) in [
            ("http://a:2379", "http://a:2379"),
            ("a:2379/", "http://a:2379"),
            ("[::1]:1", "http://[::1]:1"),
            ("https://a:2379/", "https://a:2379"),
        ] {
            assert_eq!(text.parse::<EtcdEndpoint>().unwrap().as_str(), reads);
        }
        for bad in ["", "a", "a:", "a:0", "a:x", "http://a/b:1", "https://a", "unix://a:1"] {
            assert!(bad.parse::<EtcdEndpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for good in ["info", "WARN", "info,zonebreak_xds=debug", "warn, zonebreak=trace", "off"] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "info,zonebreak=loud", "info;debug"] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hashes_and_prefixes_say_what_they_want() {
        assert_eq!(
            Sha256Hex::of(b"").as_str(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!("abc".parse::<Sha256Hex>().unwrap_err().contains("64 hexadecimal digits"));
        assert!("/zonebreak".parse::<Prefix>().unwrap_err().contains("begins and ends with '/'"));
    }
}
