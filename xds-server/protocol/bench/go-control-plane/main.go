// The peer that scripts/bench-xds measures against: go-control-plane, with its linear caches or its snapshot cache, serving the
// same resources as xds-server/protocol/examples/bench_server.rs and driven by the same lines on standard input.
//
//	peer CACHE SERVICES    CACHE is "linear" or "snapshot"
//
// It says "listening ADDRESS", and answers "change N" with "changed N" and "settle" with "settled". It ends with its input.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What both servers hold: see the Rust one for why.
const (
	zones     = 3
	endpoints = 10
)

// store is one of the two caches.
type store interface {
	cache() cache.Cache
	change(number, service int) error
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: peer linear|snapshot SERVICES")
	}
	services, err := strconv.Atoi(os.Args[2])
	if err != nil || services < 1 {
		log.Fatalf("SERVICES is a number from 1, not %q", os.Args[2])
	}
	var store store
	switch os.Args[1] {
	case "linear":
		store = newLinear(services)
	case "snapshot":
		store, err = newSnapshots(services)
	default:
		err = fmt.Errorf("no cache is called %q: use linear or snapshot", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(store, services); err != nil {
		log.Fatal(err)
	}
}

func serve(store store, services int) error {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	// As its own examples set it, but for the 5 s that they wait for the answer to a ping: where a change takes longer than that to
	// be read, they would end the connection in the middle of it.
	grpcServer := grpc.NewServer(
		grpc.MaxConcurrentStreams(1_000_000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
	)
	xds := server.NewServer(context.Background(), store.cache(), server.CallbackFuncs{})
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, xds)
	go func() { log.Fatal(grpcServer.Serve(socket)) }()
	fmt.Printf("listening %s\n", socket.Addr())

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var number int
		switch line := lines.Text(); {
		case line == "settle":
			// Its best figure: collected, and given back.
			debug.FreeOSMemory()
			fmt.Println("settled")
		default:
			if _, err := fmt.Sscanf(line, "change %d", &number); err != nil {
				return fmt.Errorf("not a command: %q", line)
			}
			if err := store.change(number, number*7919%services); err != nil {
				return err
			}
			fmt.Printf("changed %d\n", number)
		}
	}
	return lines.Err()
}

// linear is one linear cache a type, and for endpoints one a zone.
type linear struct {
	mux       *cache.MuxCache
	endpoints [zones]*cache.LinearCache
}

func newLinear(services int) *linear {
	made := &linear{mux: &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return key(r.GetTypeUrl(), r.GetNode()) },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return key(r.GetTypeUrl(), r.GetNode()) },
		Caches:        map[string]cache.Cache{},
	}}
	for typeURL, items := range common(services) {
		made.mux.Caches[typeURL] = cache.NewLinearCache(typeURL, cache.WithInitialResources(cache.IndexRawResourcesByName(items)))
	}
	for zone := range zones {
		items := map[string]types.Resource{}
		for service := range services {
			items[name(service)] = assignment(zone, service, 0)
		}
		made.endpoints[zone] = cache.NewLinearCache(resource.EndpointType, cache.WithInitialResources(items))
		made.mux.Caches[resource.EndpointType+zoneName(zone)] = made.endpoints[zone]
	}
	return made
}

func key(typeURL string, node *core.Node) string {
	if typeURL == resource.EndpointType {
		return typeURL + node.GetLocality().GetZone()
	}
	return typeURL
}

func (l *linear) cache() cache.Cache { return l.mux }

func (l *linear) change(number, service int) error {
	for zone := range zones {
		if err := l.endpoints[zone].UpdateResource(name(service), assignment(zone, service, number)); err != nil {
			return err
		}
	}
	return nil
}

// snapshots is one snapshot cache with one snapshot a zone.
type snapshots struct {
	shared    cache.SnapshotCache
	endpoints [zones]map[string]types.Resource
}

// byZone makes the nodes of a zone share a snapshot.
type byZone struct{}

func (byZone) ID(node *core.Node) string { return node.GetLocality().GetZone() }

func newSnapshots(services int) (*snapshots, error) {
	made := &snapshots{shared: cache.NewSnapshotCache(true, byZone{}, nil)}
	items := common(services)
	for zone := range zones {
		made.endpoints[zone] = map[string]types.Resource{}
		for service := range services {
			made.endpoints[zone][name(service)] = assignment(zone, service, 0)
		}
		items[resource.EndpointType] = slices.Collect(maps.Values(made.endpoints[zone]))
		snapshot, err := cache.NewSnapshot("0", items)
		if err != nil {
			return nil, err
		}
		if err := made.shared.SetSnapshot(context.Background(), zoneName(zone), snapshot); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func (s *snapshots) cache() cache.Cache { return s.shared }

func (s *snapshots) change(number, service int) error {
	for zone := range zones {
		old, err := s.shared.GetSnapshot(zoneName(zone))
		if err != nil {
			return err
		}
		// The types that did not change keep their version, so that state-of-the-world clients are not sent them.
		next := &cache.Snapshot{Resources: old.(*cache.Snapshot).Resources}
		s.endpoints[zone][name(service)] = assignment(zone, service, number)
		next.Resources[types.Endpoint] = cache.NewResources(strconv.Itoa(number), slices.Collect(maps.Values(s.endpoints[zone])))
		if err := s.shared.SetSnapshot(context.Background(), zoneName(zone), next); err != nil {
			return err
		}
	}
	return nil
}

// common is what every zone shares.
func common(services int) map[resource.Type][]types.Resource {
	ads := &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
	var clusters []types.Resource
	var hosts []*route.VirtualHost
	for service := range services {
		clusters = append(clusters, &cluster.Cluster{
			Name:                 name(service),
			ConnectTimeout:       durationpb.New(time.Second),
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads},
		})
		hosts = append(hosts, &route.VirtualHost{
			Name:    name(service),
			Domains: []string{name(service)},
			Routes: []*route.Route{{
				Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
				Action: &route.Route_Route{Route: &route.RouteAction{
					ClusterSpecifier: &route.RouteAction_Cluster{Cluster: name(service)},
				}},
			}},
		})
	}
	return map[resource.Type][]types.Resource{
		resource.ClusterType:  clusters,
		resource.ListenerType: {&listener.Listener{Name: "ingress"}},
		resource.RouteType:    {&route.RouteConfiguration{Name: "routes", VirtualHosts: hosts}},
	}
}

// assignment is a service's endpoints as a zone sees them: its own first. The number of the last change is in the first one's
// host name, where the swarm finds it.
func assignment(zone, service, number int) *endpoint.ClusterLoadAssignment {
	made := &endpoint.ClusterLoadAssignment{ClusterName: name(service)}
	for of := range zones {
		locality := &endpoint.LocalityLbEndpoints{
			Locality:            &core.Locality{Region: "region", Zone: zoneName(of)},
			LoadBalancingWeight: wrapperspb.UInt32(100),
		}
		if of != zone {
			locality.Priority = 1
		}
		for host := range endpoints {
			address := &core.SocketAddress{
				Address:       fmt.Sprintf("10.%d.%d.%d", of, service%250, host),
				PortSpecifier: &core.SocketAddress_PortValue{PortValue: 8080},
			}
			target := &endpoint.Endpoint{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: address}}}
			if of == 0 && host == 0 {
				target.Hostname = fmt.Sprintf("~%012d", number)
			}
			locality.LbEndpoints = append(locality.LbEndpoints, &endpoint.LbEndpoint{
				HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: target},
			})
		}
		made.Endpoints = append(made.Endpoints, locality)
	}
	return made
}

func name(service int) string  { return fmt.Sprintf("service-%04d", service) }
func zoneName(zone int) string { return fmt.Sprintf("zone-%d", zone) }
