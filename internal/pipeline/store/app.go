package store

import (
	"context"
	"time"
)

// App is an application: a repository, a pipeline, and how its runs are run.
type App struct {
	ID int64
	// Name is unique. See CheckName.
	Name        string
	Description string
	// Source is the repository.
	Source Source
	// PipelinePath is the pipeline file in the repository. PipelineText, when it is not empty, is a pipeline that the
	// service hosts, and is used instead.
	PipelinePath, PipelineText string
	// Concurrency bounds how many runs of the app go on at once. 0 is no bound but that of the service.
	Concurrency int
	// Supersede cancels older runs of a branch that are not over when a new one is made.
	Supersede bool
	// KeepRuns and KeepDays say how many finished runs are kept, and for how long; 0 is what the service says.
	KeepRuns, KeepDays int
	// Version rises with every change. An update names the one it is based on.
	Version              int64
	CreatedAt, UpdatedAt time.Time
}

// Source is a repository that code comes from.
type Source struct {
	// Kind is "git"; forges have their own.
	Kind string
	// URL is the address to clone, without credentials.
	URL string
	// Branch is the branch that is run when none is named. Empty is the repository's own default.
	Branch string
	// Credential names the secret with what git needs to read the repository; empty when nothing is needed.
	Credential string
}

// Variable is a value that an app's pipelines may use, and that anyone may see who sees the app.
type Variable struct {
	Name, Value string
	UpdatedAt   time.Time
}

// AppStore keeps apps and their variables.
type AppStore interface {
	// CreateApp adds an app and returns it with its ID, Version and times. A name that is taken is an errs.Exists.
	CreateApp(ctx context.Context, a App) (App, error)
	// App returns the app called name.
	App(ctx context.Context, name string) (App, error)
	// Apps returns all apps by name.
	Apps(ctx context.Context) ([]App, error)
	// UpdateApp stores all fields of an app but its name. It is an errs.Conflict when a.Version is not the current one.
	UpdateApp(ctx context.Context, a App) (App, error)
	// DeleteApp removes an app with all that belongs to it, its runs too. It is an errs.Conflict while a run of it is
	// not over.
	DeleteApp(ctx context.Context, name string) error
	// Variables returns the variables of an app by name.
	Variables(ctx context.Context, app int64) ([]Variable, error)
	// SetVariable adds or replaces a variable.
	SetVariable(ctx context.Context, app int64, name, value string) error
	// DeleteVariable removes a variable.
	DeleteVariable(ctx context.Context, app int64, name string) error
}
