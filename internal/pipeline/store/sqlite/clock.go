package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockSlack is how far the wall clock may run from the machine's own before it counts as set.
const clockSlack = time.Second

func (o *Options) fillClock() error {
	if o.Uptime == nil {
		o.Uptime = func() time.Duration {
			var t unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
				panic("[bug] no CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
			}
			return time.Duration(t.Nano())
		}
	}
	if o.Boot == "" {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return fmt.Errorf("find out which start of the machine this is: %w", err)
		}
		o.Boot = strings.TrimSpace(string(id))
	}
	return nil
}

// drift is by how much the wall clock has been set since the clocks were last seen together; 0 when it has not, or when
// that was before the machine started. known is false when they must be written down anew.
func (db *DB) drift(wall, uptime int64, boot string) (by int64, known bool) {
	if boot != db.opts.Boot {
		return 0, false
	}
	by = (db.opts.Now().UnixMilli() - wall) - (db.opts.Uptime().Milliseconds() - uptime)
	if max(by, -by) <= clockSlack.Milliseconds() {
		return 0, true
	}
	return by, false
}

// settleClock moves all leases, and the times that attempts wait for, along with a wall clock that was set. Every
// transaction that writes begins with it, whichever process it is in: so one does it, once, before anybody compares or
// writes a lease by the new time.
func (t *tx) settleClock(ctx context.Context) error {
	var wall, uptime int64
	var boot string
	err := t.row(ctx, "Clock").Scan(&wall, &uptime, &boot)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	by, known := t.db.drift(wall, uptime, boot)
	if known {
		return nil
	}
	if by != 0 {
		if _, err := t.exec(ctx, "ShiftAttempts", by); err != nil {
			return err
		}
	}
	_, err = t.exec(ctx, "SetClock", t.now, t.db.opts.Uptime().Milliseconds(), t.db.opts.Boot)
	return err
}

// settled makes sure that what is about to be read has been moved along with the clock.
func (db *DB) settled(ctx context.Context) error {
	var wall, uptime int64
	var boot string
	if err := db.row(ctx, "Clock").Scan(&wall, &uptime, &boot); err == nil {
		if _, known := db.drift(wall, uptime, boot); known {
			return nil
		}
	}
	return db.Ping(ctx)
}
