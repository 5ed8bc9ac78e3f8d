package supervisor_test

import "context"

// background is the context of a worker, which no test is there to give.
func background() context.Context { return context.Background() }
