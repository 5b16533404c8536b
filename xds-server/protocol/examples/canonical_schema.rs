//! Writes `src/canonical/schema.txt` from the descriptors of Envoy's API.
//!
//! To be run when the API version of `envoy-types` changes, from the directory of its `.proto` files:
//!
//! ```text
//! protoc -I data-plane-api -I googleapis -I xds -I protoc-gen-validate -I cel-spec/proto -I client_model \
//!   -I opentelemetry-proto --include_imports -o /dev/stdout $(find data-plane-api/envoy -name '*.proto') \
//!   | cargo run -p zonebreak-xds --example canonical_schema > schema.txt
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use envoy_types::pb::google::protobuf::field_descriptor_proto::Type;
use envoy_types::pb::google::protobuf::{DescriptorProto, FileDescriptorSet};
use prost::Message;

/// What a message holds, by field number: other messages, by name.
type Fields = BTreeMap<i32, String>;

#[derive(Default)]
struct Messages {
    fields: BTreeMap<String, Fields>,
    map_entries: BTreeSet<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let mut messages = Messages::default();
    for file in FileDescriptorSet::decode(bytes.as_slice())?.file {
        for message in &file.message_type {
            messages.add(file.package(), message);
        }
    }
    let reaching = messages.reaching();
    let lines: Vec<&String> = reaching.iter().filter(|name| !messages.map_entries.contains(*name)).collect();
    let at = |name: &str| lines.binary_search_by(|line| line.as_str().cmp(name)).ok();
    for name in &lines {
        let mut line = (*name).clone();
        for (number, target) in messages.fields.get(*name).into_iter().flatten() {
            if messages.map_entries.contains(target) {
                let value = messages.fields.get(target).and_then(|entry| entry.get(&2)).and_then(|v| at(v));
                let value = value.map_or("-".to_owned(), |value| value.to_string());
                line.push_str(&format!(" {number}*{value}"));
            } else if let Some(target) = at(target) {
                line.push_str(&format!(" {number}={target}"));
            }
        }
        println!("{line}");
    }
    Ok(())
}

impl Messages {
    fn add(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        let is_message = |kind: Type| kind == Type::Message;
        let fields = message.field.iter().filter(|field| is_message(field.r#type()));
        let fields =
            fields.map(|field| (field.number(), field.type_name().trim_start_matches('.').to_owned()));
        self.fields.insert(name.clone(), fields.collect());
        if message.options.as_ref().is_some_and(|options| options.map_entry()) {
            self.map_entries.insert(name.clone());
        }
        message.nested_type.iter().for_each(|nested| self.add(&name, nested));
    }

    /// The messages from which a map or an `Any` can be reached, `Any` among them.
    fn reaching(&self) -> BTreeSet<String> {
        let mut reaching = self.map_entries.clone();
        reaching.insert("google.protobuf.Any".to_owned());
        loop {
            let more: Vec<String> = self
                .fields
                .iter()
                .filter(|(name, fields)| {
                    !reaching.contains(*name) && fields.values().any(|f| reaching.contains(f))
                })
                .map(|(name, _)| name.clone())
                .collect();
            if more.is_empty() {
                return reaching;
            }
            reaching.extend(more);
        }
    }
}
