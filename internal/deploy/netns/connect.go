package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Instances have addresses of 10.213.0.0/16, four for each: the network's, this machine's, the instance's and the
// broadcast's.
const (
	firstOctet, secondOctet = 10, 213
	places                  = 1 << 14
	tableName               = "slipway"
)

// taken are the places in use, and whether addresses are translated yet.
var taken struct {
	sync.Mutex
	places     map[int]bool
	translated bool
}

func takePlace() (int, error) {
	taken.Lock()
	defer taken.Unlock()
	if taken.places == nil {
		taken.places = map[int]bool{}
	}
	for n := range places {
		if !taken.places[n] && netlinkFree(n) {
			taken.places[n] = true
			return n, nil
		}
	}
	return 0, fmt.Errorf("all %d networks are in use: %w", places, errs.Unavailable)
}

func freePlace(n int) {
	taken.Lock()
	defer taken.Unlock()
	delete(taken.places, n)
}

// netlinkFree reports whether no other process of the machine uses a place.
func netlinkFree(n int) bool {
	_, err := netlink.LinkByName(linkName(n))
	_, missing := errors.AsType[netlink.LinkNotFoundError](err)
	return missing
}

func linkName(n int) string { return fmt.Sprintf("slipway%d", n) }

func address(n, host int) net.IP {
	at := n<<2 | host
	return net.IPv4(firstOctet, secondOctet, byte(at>>8), byte(at))
}

// connect joins a network to this machine by a pair of interfaces. The pair ends with the namespace.
func connect(n *Namespace) (end func() error, err error) {
	if err := translate(); err != nil {
		return nil, err
	}
	place, err := takePlace()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			freePlace(place)
		}
	}()
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: linkName(place)},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(n.file.Fd())),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("add interface %s: %w", pair.Name, err)
	}
	end = func() error {
		defer freePlace(place)
		if err := netlink.LinkDel(pair); err != nil && !errors.Is(err, unix.ENODEV) {
			if _, gone := errors.AsType[netlink.LinkNotFoundError](err); !gone {
				return fmt.Errorf("remove interface %s: %w", pair.Name, err)
			}
		}
		return nil
	}
	here, there := address(place, 1), address(place, 2)
	if err := setUp(pair, here); err != nil {
		return nil, errors.Join(err, end())
	}
	err = n.inside(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		if err := setUp(eth0, there); err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: here}); err != nil {
			return fmt.Errorf("add the default route: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

func setUp(link netlink.Link, ip net.IP) error {
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(30, 32)}}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, ip, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

const forwarding = "/proc/sys/net/ipv4/ip_forward"

// translate has the machine pass on what instances send, with its own address as the sender's. It does so once a process;
// the table of an earlier one is replaced. What instances send to link-local addresses, where clouds give credentials to
// the machine, is dropped.
func translate() error {
	taken.Lock()
	defer taken.Unlock()
	if taken.translated {
		return nil
	}
	on, err := os.ReadFile(forwarding)
	if err != nil {
		return fmt.Errorf("see whether the machine forwards: %w", err)
	}
	if strings.TrimSpace(string(on)) != "1" {
		if err := os.WriteFile(forwarding, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("let the machine forward: %w", err)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("translate addresses: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	conn.AddTable(table) // so that deleting it cannot fail
	conn.DelTable(table)
	conn.AddTable(table)
	out := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	const source, destination = 12, 16 // offsets in an IPv4 header
	conn.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: append(within(source, firstOctet, secondOctet), &expr.Masq{})})
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	local := append(within(source, firstOctet, secondOctet), within(destination, 169, 254)...)
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: append(local, &expr.Verdict{Kind: expr.VerdictDrop})})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("translate addresses: %w", err)
	}
	taken.translated = true
	return nil
}

// within matches packets whose address at an offset of the header begins with two octets.
func within(offset uint32, a, b byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{a, b}},
	}
}
