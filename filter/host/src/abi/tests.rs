//! The ABI from the guest's side: a module made for each test that imports all of it and lets the test call what it likes.

use std::{fmt::Write as _, rc::Rc};

use super::*;
use crate::{
    process::{Node, Process},
    vm::{CrashPoint, Headers, Module, StreamInfo, Verdict, Vm},
};

/// Every host function that the Rust SDK imports (proxy-wasm 0.2.5, `hostcalls.rs`), with its parameters: `i` for `i32`, `l`
/// for `i64`.
const ABI: [(&str, &str); 36] = [
    ("log", "iii"),
    ("get_log_level", "i"),
    ("get_current_time_nanoseconds", "i"),
    ("set_tick_period_milliseconds", "i"),
    ("get_buffer_bytes", "iiiii"),
    ("set_buffer_bytes", "iiiii"),
    ("get_header_map_pairs", "iii"),
    ("set_header_map_pairs", "iii"),
    ("get_header_map_value", "iiiii"),
    ("remove_header_map_value", "iii"),
    ("replace_header_map_value", "iiiii"),
    ("add_header_map_value", "iiiii"),
    ("get_property", "iiii"),
    ("set_property", "iiii"),
    ("get_shared_data", "iiiii"),
    ("set_shared_data", "iiiii"),
    ("register_shared_queue", "iii"),
    ("resolve_shared_queue", "iiiii"),
    ("dequeue_shared_queue", "iii"),
    ("enqueue_shared_queue", "iii"),
    ("continue_stream", "i"),
    ("close_stream", "i"),
    ("send_local_response", "iiiiiiii"),
    ("http_call", "iiiiiiiiii"),
    ("grpc_call", "iiiiiiiiiiii"),
    ("grpc_stream", "iiiiiiiii"),
    ("grpc_send", "iiii"),
    ("grpc_cancel", "i"),
    ("grpc_close", "i"),
    ("get_status", "iii"),
    ("set_effective_context", "i"),
    ("call_foreign_function", "iiiiii"),
    ("done", ""),
    ("define_metric", "iiii"),
    ("get_metric", "ii"),
    ("record_metric", "il"),
];

/// A module that exports each host function under its own name, and has `more` in it. Its allocator gives ever higher memory
/// from 4096 on.
fn guest(more: &str) -> Vm {
    let types =
        |shape: &str| shape.chars().map(|c| if c == 'l' { " i64" } else { " i32" }).collect::<String>();
    let mut wat = String::from("(module ");
    let all = || ABI.into_iter().chain([("increment_metric", "il")]);
    for (name, shape) in all() {
        let types = types(shape);
        writeln!(wat, r#"(import "env" "proxy_{name}" (func ${name} (param{types}) (result i32)))"#).unwrap();
    }
    for (name, shape) in all() {
        let (types, args) =
            (types(shape), (0..shape.len()).map(|i| format!("(local.get {i})")).collect::<String>());
        writeln!(wat, r#"(func (export "{name}") (param{types}) (result i32) (call ${name} {args}))"#)
            .unwrap();
    }
    wat.push_str(
        r#"(memory (export "memory") 1) (global $top (mut i32) (i32.const 4096))
        (func (export "malloc") (param i32) (result i32) (global.get $top)
          (global.set $top (i32.add (global.get $top) (local.get 0))))"#,
    );
    wat.push_str(more);
    wat.push(')');
    let module =
        Module::new(&wat::parse_str(&wat).unwrap()).unwrap_or_else(|error| panic!("failed to {error}"));
    let node = Node { zone: Some("az-a".to_owned()), ..Node::default() };
    Vm::start(&module, &Rc::new(Process::new(node)), "vm", 1)
        .unwrap_or_else(|error| panic!("failed to {error}"))
}

/// Puts texts into memory from address 0 on; gives the address and size of each.
fn put<const N: usize>(vm: &mut Vm, texts: [&str; N]) -> [(i64, i64); N] {
    let mut at = 0;
    texts.map(|text| {
        vm.poke(at, text.as_bytes());
        let place = (at as i64, text.len() as i64);
        at += text.len();
        place
    })
}

const OK: u32 = Status::Ok as u32;
const NOT_FOUND: u32 = Status::NotFound as u32;
const BAD_ARGUMENT: u32 = Status::BadArgument as u32;
const OUT: i64 = 2048;
const OUT_SIZE: i64 = 2052;

/// The bytes that a host call left.
fn given(vm: &mut Vm) -> Vec<u8> {
    let pointer = u32::from_le_bytes(vm.peek(OUT as usize, 4).try_into().unwrap());
    let size = u32::from_le_bytes(vm.peek(OUT_SIZE as usize, 4).try_into().unwrap());
    vm.peek(pointer as usize, size as usize)
}

#[test]
fn what_is_there_in_name_only_says_so() {
    let mut vm = guest("");
    for name in
        ["http_call", "grpc_call", "grpc_stream", "register_shared_queue", "close_stream", "get_status"]
    {
        let (_, shape) = ABI.into_iter().find(|(known, _)| *known == name).unwrap();
        assert_eq!(vm.invoke(name, &vec![0; shape.len()]), Ok(Status::Unimplemented as u32), "{name}");
    }
    assert_eq!(vm.calls().of(Call::Unsupported), 6);
}

#[test]
fn a_counter_refuses_an_increment_of_nothing() {
    let mut vm = guest("");
    let [(name, size)] = put(&mut vm, ["requests"]);
    assert_eq!(vm.invoke("define_metric", &[0, name, size, OUT]), Ok(OK));
    let id = i64::from(u32::from_le_bytes(vm.peek(OUT as usize, 4).try_into().unwrap()));
    assert_eq!(vm.invoke("increment_metric", &[id, 0]), Ok(BAD_ARGUMENT));
    assert_eq!(vm.invoke("increment_metric", &[id, -1]), Ok(BAD_ARGUMENT));
    assert_eq!(vm.invoke("increment_metric", &[id, 3]), Ok(OK));
    assert_eq!(vm.invoke("get_metric", &[id, OUT]), Ok(OK));
    assert_eq!(vm.peek(OUT as usize, 8), 3_u64.to_le_bytes());
    assert_eq!(vm.invoke("get_metric", &[id + 1, OUT]), Ok(NOT_FOUND));
    assert_eq!(vm.invoke("define_metric", &[3, name, size, OUT]), Ok(BAD_ARGUMENT));
}

#[test]
fn a_gauge_goes_up_and_down() {
    let mut vm = guest("");
    let [(name, size)] = put(&mut vm, ["open"]);
    vm.invoke("define_metric", &[1, name, size, OUT]).unwrap();
    let id = i64::from(u32::from_le_bytes(vm.peek(OUT as usize, 4).try_into().unwrap()));
    assert_eq!(vm.invoke("record_metric", &[id, 10]), Ok(OK));
    assert_eq!(vm.invoke("increment_metric", &[id, -4]), Ok(OK));
    assert_eq!(vm.invoke("get_metric", &[id, OUT]), Ok(OK));
    assert_eq!(vm.peek(OUT as usize, 8), 6_u64.to_le_bytes());
}

#[test]
fn shared_data_is_replaced_by_its_stamp() {
    let mut vm = guest("");
    let [(key, key_size), (value, value_size)] = put(&mut vm, ["key", "value"]);
    let get = |vm: &mut Vm| vm.invoke("get_shared_data", &[key, key_size, OUT, OUT_SIZE, 2056]);
    let set = |vm: &mut Vm, stamp| vm.invoke("set_shared_data", &[key, key_size, value, value_size, stamp]);
    assert_eq!(get(&mut vm), Ok(NOT_FOUND));
    assert_eq!(set(&mut vm, 99), Ok(OK), "there is nothing yet that the stamp could be held against");
    assert_eq!(get(&mut vm), Ok(OK));
    assert_eq!(given(&mut vm), b"value");
    let stamp = i64::from(u32::from_le_bytes(vm.peek(2056, 4).try_into().unwrap()));
    assert_eq!(set(&mut vm, stamp), Ok(OK));
    assert_eq!(set(&mut vm, stamp), Ok(Status::CasMismatch as u32));
    assert_eq!(vm.calls().returned_bytes(), 1);
}

#[test]
fn pointers_out_of_memory_are_refused() {
    let mut vm = guest("");
    let invalid = Ok(Status::InvalidMemoryAccess as u32);
    for (name, args) in [
        ("log", vec![2, 65_530, 100]),
        ("get_current_time_nanoseconds", vec![65_529]),
        ("get_property", vec![0, 1 << 30, OUT, OUT_SIZE]),
        ("set_shared_data", vec![0, 3, -1, 2, 0]),
        ("define_metric", vec![0, 0, 3, 65_534]),
    ] {
        assert_eq!(vm.invoke(name, &args), invalid, "{name}");
    }
}

#[test]
fn what_is_not_there_now_is_refused() {
    let mut vm = guest("");
    let [(name, size)] = put(&mut vm, ["name"]);
    for (call, args, status) in [
        ("get_buffer_bytes", vec![7, 0, 100, OUT, OUT_SIZE], NOT_FOUND),
        ("get_buffer_bytes", vec![9, 0, 100, OUT, OUT_SIZE], BAD_ARGUMENT),
        ("get_header_map_value", vec![0, name, size, OUT, OUT_SIZE], BAD_ARGUMENT),
        ("replace_header_map_value", vec![2, name, size, name, size], BAD_ARGUMENT),
        ("get_header_map_value", vec![8, name, size, OUT, OUT_SIZE], BAD_ARGUMENT),
        ("get_property", vec![name, size, OUT, OUT_SIZE], NOT_FOUND),
        ("set_effective_context", vec![77], BAD_ARGUMENT),
        ("call_foreign_function", vec![name, size, 0, 0, OUT, OUT_SIZE], NOT_FOUND),
        ("log", vec![6, name, size], BAD_ARGUMENT),
    ] {
        assert_eq!(vm.invoke(call, &args), Ok(status), "{call} {args:?}");
    }
}

#[test]
fn the_nodes_zone_is_there_without_a_stream() {
    let mut vm = guest("");
    let [(path, size)] = put(&mut vm, ["xds\0node\0locality\0zone"]);
    assert_eq!(vm.invoke("get_property", &[path, size, OUT, OUT_SIZE]), Ok(OK));
    assert_eq!(given(&mut vm), b"az-a");
}

/// It answers after it returned: a local response wins over whatever it returns, and is kept until then.
#[test]
fn a_local_response_is_given_after_the_callback() {
    let mut vm = guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $send_local_response (i32.const 429) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4)
            (i32.const 0) (i32.const 0) (i32.const -1)))
          (drop (call $remove_header_map_value (i32.const 0) (i32.const 4) (i32.const 5)))
          (i32.const 0))"#,
    );
    put(&mut vm, ["body", ":path"]);
    let root = vm.start_plugin(&Rc::from([])).unwrap();
    let stream = vm.open_stream(root, StreamInfo::default()).unwrap();
    let mut headers = Headers::from([(":path", "/"), (":method", "GET")]);
    let Verdict::Respond(response) = vm.request_headers(stream, &mut headers, true).unwrap() else {
        panic!()
    };
    assert_eq!(
        (response.status, response.body.as_slice(), response.grpc_status),
        (429, b"body".as_slice(), -1)
    );
    assert_eq!(headers, Headers::from([(":method", "GET")]), "the callback went on after it");
}

#[test]
fn a_plugin_that_refuses_is_not_started() {
    let mut vm = guest(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $get_buffer_bytes (i32.const 7) (i32.const 0) (i32.const 100) (i32.const 2048) (i32.const 2052)))
          (drop (call $log (i32.const 4) (i32.load (i32.const 2048)) (i32.load (i32.const 2052))))
          (i32.eq (local.get 1) (i32.const 4)))"#,
    );
    assert!(vm.start_plugin(&Rc::from(*b"good")).is_ok());
    let refused = vm.start_plugin(&Rc::from(*b"no good")).unwrap_err();
    assert_eq!(refused.to_string(), "configure the plugin: it refused; it said: no good");
    assert_eq!(vm.plugins(), 1);
}

#[test]
fn a_vm_crashes_where_it_was_told_and_stays_down() {
    let mut vm = guest("");
    vm.crash_at(Some(CrashPoint::Calls(2)));
    assert_eq!(vm.invoke("get_current_time_nanoseconds", &[OUT]), Ok(OK));
    assert!(vm.invoke("get_current_time_nanoseconds", &[OUT]).is_err());
    assert!(vm.crashed().is_some());
    assert!(vm.open_stream(1, StreamInfo::default()).is_err());

    let mut vm = guest("");
    let [(key, size)] = put(&mut vm, ["key"]);
    vm.crash_at(Some(CrashPoint::After(Call::SetShared)));
    assert_eq!(vm.invoke("get_current_time_nanoseconds", &[OUT]), Ok(OK));
    assert_eq!(vm.invoke("set_shared_data", &[key, size, key, size, 0]), Ok(OK));
    assert!(vm.invoke("get_current_time_nanoseconds", &[OUT]).is_err());
}

#[test]
fn a_trap_is_a_crash_and_says_where() {
    let mut vm = guest(r#"(func (export "proxy_on_tick") (param i32) unreachable)"#);
    let root = vm.start_plugin(&Rc::from([])).unwrap();
    vm.enter_for_test(root);
    vm.invoke("set_tick_period_milliseconds", &[100]).unwrap();
    assert_eq!(vm.next_tick(), Some(std::time::Duration::from_millis(100)));
    vm.advance_for_test(std::time::Duration::from_millis(100));
    let crashed = vm.tick(std::time::Duration::ZERO).unwrap_err();
    assert!(crashed.why.contains("proxy_on_tick") && crashed.why.contains("unreachable"), "{}", crashed.why);
    assert_eq!(vm.next_tick(), None);
}
