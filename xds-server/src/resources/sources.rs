//! Where Envoy gets the rest from: the same ADS stream.

use envoy_types::pb::{
    envoy::config::core::v3::{
        AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
    },
    google::protobuf::Duration,
};
use zonebreak_core::units::Millis;

/// "Ask on the stream that you got this from."
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// A protobuf duration.
pub(super) fn duration(span: Millis) -> Duration {
    let (seconds, rest) = (span.0 / 1000, span.0 % 1000);
    Duration {
        seconds: seconds.try_into().unwrap_or(i64::MAX),
        nanos: i32::try_from(rest).unwrap_or(0) * 1_000_000,
    }
}
