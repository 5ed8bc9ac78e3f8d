package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"slipway/internal/oci"
)

// Described is the image that a bill of materials is of.
type Described struct {
	Name    string // a reference, or "" when it has none
	Digest  oci.Digest
	Created time.Time
	Version string // slipway's own
}

func (d *Described) name() string {
	if d.Name == "" {
		return d.Digest.String()
	}
	return d.Name
}

// noAssertion is SPDX's word for what is not said.
const noAssertion = "NOASSERTION"

// NewSPDX is the predicate of PredicateSPDX: a document of SPDX 2.3.
func NewSPDX(d Described, c Contents) (json.RawMessage, error) {
	image := &v2_3.Package{
		PackageName: d.name(), PackageSPDXIdentifier: "Image", PackageVersion: d.Digest.String(),
		PackageDownloadLocation: noAssertion, PrimaryPackagePurpose: "CONTAINER",
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: d.Digest.Encoded()}},
	}
	doc := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: d.name(),
		DocumentNamespace: "https://spdx.org/spdxdocs/slipway-" + d.Digest.Encoded(),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "slipway-" + d.Version}},
			Created:  d.Created.UTC().Format(time.RFC3339),
		},
		Packages:      []*v2_3.Package{image},
		Relationships: []*v2_3.Relationship{relation("DOCUMENT", "DESCRIBES", "Image")},
	}
	for i := range c.Packages {
		id := "Package-" + strconv.Itoa(i+1)
		doc.Packages = append(doc.Packages, spdxPackage(&c.Packages[i], id, c.Distro))
		doc.Relationships = append(doc.Relationships, relation("Image", "CONTAINS", id))
	}
	var b bytes.Buffer
	if err := spdxjson.Write(doc, &b); err != nil {
		return nil, fmt.Errorf("write SPDX: %w", err)
	}
	return b.Bytes(), nil
}

func spdxPackage(p *Package, id, distro string) *v2_3.Package {
	out := &v2_3.Package{
		PackageName: p.Name, PackageSPDXIdentifier: common.ElementID(id), PackageVersion: p.Version,
		PackageDownloadLocation: noAssertion, PackageSourceInfo: "found in /" + p.Path,
		PackageExternalReferences: []*v2_3.PackageExternalReference{{
			Category: "PACKAGE-MANAGER", RefType: "purl", Locator: p.URL(distro),
		}},
	}
	if p.Licenses != "" { // seldom an expression of SPDX, so it declares nothing
		out.PackageLicenseComments = "The package says: " + p.Licenses
	}
	return out
}

func relation(from, kind, to string) *v2_3.Relationship {
	return &v2_3.Relationship{
		RefA: common.MakeDocElementID("", from), RefB: common.MakeDocElementID("", to), Relationship: kind,
	}
}

// The parts of CycloneDX 1.6 that are written. The project's own Go library costs every start of slipway 0.2 ms
// (decision 0010); the tests hold this against it.
type (
	cyclone struct {
		BOMFormat    string             `json:"bomFormat"`
		SpecVersion  string             `json:"specVersion"`
		SerialNumber string             `json:"serialNumber"`
		Version      int                `json:"version"`
		Metadata     cycloneMetadata    `json:"metadata"`
		Components   []cycloneComponent `json:"components"`
	}
	cycloneMetadata struct {
		Timestamp string           `json:"timestamp"`
		Tools     cycloneTools     `json:"tools"`
		Component cycloneComponent `json:"component"`
	}
	cycloneTools struct {
		Components []cycloneComponent `json:"components"`
	}
	cycloneComponent struct {
		Ref        string            `json:"bom-ref,omitempty"`
		Type       string            `json:"type"`
		Name       string            `json:"name"`
		Version    string            `json:"version,omitempty"`
		Licenses   []cycloneLicense  `json:"licenses,omitempty"`
		PackageURL string            `json:"purl,omitempty"`
		Properties []cycloneProperty `json:"properties,omitempty"`
	}
	cycloneLicense struct {
		License struct {
			Name string `json:"name"`
		} `json:"license"`
	}
	cycloneProperty struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
)

// NewCycloneDX is the predicate of PredicateCycloneDX.
func NewCycloneDX(d Described, c Contents) (json.RawMessage, error) {
	bom := cyclone{
		BOMFormat: "CycloneDX", SpecVersion: "1.6", SerialNumber: "urn:uuid:" + uuid(d.Digest), Version: 1,
		Metadata: cycloneMetadata{
			Timestamp: d.Created.UTC().Format(time.RFC3339),
			Tools:     cycloneTools{[]cycloneComponent{{Type: "application", Name: "slipway", Version: d.Version}}},
			Component: cycloneComponent{Ref: "image", Type: "container", Name: d.name(), Version: d.Digest.String()},
		},
		Components: make([]cycloneComponent, 0, len(c.Packages)),
	}
	for i := range c.Packages {
		p := &c.Packages[i]
		out := cycloneComponent{
			Ref: "package-" + strconv.Itoa(i+1), Type: "library", Name: p.Name, Version: p.Version, PackageURL: p.URL(c.Distro),
			Properties: []cycloneProperty{{"slipway:path", "/" + p.Path}},
		}
		if p.Licenses != "" {
			out.Licenses = make([]cycloneLicense, 1)
			out.Licenses[0].License.Name = p.Licenses
		}
		bom.Components = append(bom.Components, out)
	}
	return oci.Marshal(bom)
}

// uuid is a UUID (RFC 9562, version 8) that an image always has, so that the same image has the same document.
func uuid(d oci.Digest) string {
	u := sha256.Sum256([]byte("CycloneDX " + d.String()))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
