// Words about images.
package oci
