//! A server that knows nothing: it answers the first request for a type with no resources, and no other. What a stream costs there is
//! what HTTP/2 costs, below any engine.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use futures::StreamExt;
use prost::Message;

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Its one method, which speaks the incremental protocol.
pub fn routes() -> tonic::service::Routes {
    let mut routes = tonic::service::Routes::default();
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.route(PATH, axum::routing::post(serve));
    routes
}

async fn serve(requests: Body) -> Response {
    let answers = requests.into_data_stream().filter_map(async |bytes| {
        let answers = answers(&bytes.ok()?);
        (!answers.is_empty()).then_some(Ok::<_, std::convert::Infallible>(answers))
    });
    let mut response = Response::new(Body::from_stream(answers));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

/// The answers to some whole requests: small ones come in one piece.
fn answers(mut requests: &[u8]) -> Bytes {
    let mut answers = Vec::new();
    while let Some(([_, len @ ..], rest)) = requests.split_first_chunk::<5>() {
        let len = u32::from_be_bytes(*len) as usize;
        let (Some(message), Some(after)) = (rest.get(..len), rest.get(len..)) else { break };
        requests = after;
        if let Ok(request) = DeltaDiscoveryRequest::decode(message)
            && request.response_nonce.is_empty()
        {
            let nonce = "1".to_owned();
            let answer = DeltaDiscoveryResponse { type_url: request.type_url, nonce, ..Default::default() };
            answers.put_u8(0);
            answers.put_u32(answer.encoded_len() as u32);
            answer.encode_raw(&mut answers);
        }
    }
    answers.into()
}
