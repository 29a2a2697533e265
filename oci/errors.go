package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Error is an error as the registry API shows it: a status, a code of the
// specification and a message that a person can act on. Two of them match
// under errors.Is when their codes are equal.
type Error struct {
	Status  int           // HTTP status of the answer
	Code    string        // code of the specification, such as BLOB_UNKNOWN
	Message string        // one sentence: what happened, where, what to do next
	Detail  any           // optional, encoded as JSON
	After   time.Duration // optional Retry-After, rounded up to seconds
	Cause   error         // optional; never shown to the client
}

// The errors of the specification ("Error Codes") and the few statuses beyond
// it that registries use in practice.
var (
	ErrBlobUnknown         = &Error{Status: http.StatusNotFound, Code: "BLOB_UNKNOWN", Message: "blob unknown to registry"}
	ErrBlobUploadInvalid   = &Error{Status: http.StatusBadRequest, Code: "BLOB_UPLOAD_INVALID", Message: "blob upload invalid"}
	ErrBlobUploadUnknown   = &Error{Status: http.StatusNotFound, Code: "BLOB_UPLOAD_UNKNOWN", Message: "blob upload unknown to registry"}
	ErrRangeInvalid        = &Error{Status: http.StatusRequestedRangeNotSatisfiable, Code: "BLOB_UPLOAD_INVALID", Message: "range is out of order"}
	ErrDigestInvalid       = &Error{Status: http.StatusBadRequest, Code: "DIGEST_INVALID", Message: "provided digest did not match uploaded content"}
	ErrManifestBlobUnknown = &Error{Status: http.StatusNotFound, Code: "MANIFEST_BLOB_UNKNOWN", Message: "manifest references a blob or manifest unknown to registry"}
	ErrManifestInvalid     = &Error{Status: http.StatusBadRequest, Code: "MANIFEST_INVALID", Message: "manifest invalid"}
	ErrManifestTooLarge    = &Error{Status: http.StatusRequestEntityTooLarge, Code: "MANIFEST_INVALID", Message: "manifest is larger than 4 MiB"}
	ErrManifestUnknown     = &Error{Status: http.StatusNotFound, Code: "MANIFEST_UNKNOWN", Message: "manifest unknown to registry"}
	ErrNameInvalid         = &Error{Status: http.StatusBadRequest, Code: "NAME_INVALID", Message: "invalid repository name"}
	ErrNameUnknown         = &Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: "repository name not known to registry"}
	ErrTagInvalid          = &Error{Status: http.StatusBadRequest, Code: "TAG_INVALID", Message: "manifest tag is invalid"}
	ErrSizeInvalid         = &Error{Status: http.StatusBadRequest, Code: "SIZE_INVALID", Message: "provided length did not match content length"}
	ErrUnauthorized        = &Error{Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Message: "authentication required"}
	ErrDenied              = &Error{Status: http.StatusForbidden, Code: "DENIED", Message: "requested access to the resource is denied"}
	ErrUnsupported         = &Error{Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED", Message: "the operation is unsupported"}
	ErrNotFound            = &Error{Status: http.StatusNotFound, Code: "UNSUPPORTED", Message: "no such end-point"}
	ErrTooManyRequests     = &Error{Status: http.StatusTooManyRequests, Code: "TOOMANYREQUESTS", Message: "too many requests"}
	ErrMisdirected         = &Error{Status: http.StatusMisdirectedRequest, Code: "DENIED", Message: "this host name is not served here"}
	ErrStorageFull         = &Error{Status: http.StatusInsufficientStorage, Code: "DENIED", Message: "the proxy's disk is full"}
	ErrUpstream            = &Error{Status: http.StatusBadGateway, Code: "UNAVAILABLE", Message: "the upstream registry could not be reached"}
	ErrInternal            = &Error{Status: http.StatusInternalServerError, Code: "UNKNOWN", Message: "internal error; the proxy's log has the cause"}
)

// Error returns the message and, where there is one, the cause: it is the text
// for logs. The client sees Message alone.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is an Error of the same code and status.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Status == e.Status
}

// With returns a copy of e with another message, which the client sees.
func (e *Error) With(format string, args ...any) *Error {
	c := *e
	c.Message = fmt.Sprintf(format, args...)
	return &c
}

// Because returns a copy of e whose cause, shown in logs only, is err.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Cause = err
	return &c
}

// AsError returns the Error within err, or ErrInternal caused by err when there
// is none: what is not meant for clients never reaches them.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return ErrInternal.Because(err)
}

// Write answers a request with err in the specification's format. It is the
// only place where an error becomes a response.
func Write(w http.ResponseWriter, err error) {
	e := AsError(err)
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	body, encodeErr := json.Marshal(map[string][]item{"errors": {{e.Code, e.Message, e.Detail}}})
	if encodeErr != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN","message":"internal error"}]}`)
	}
	if e.After > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((e.After+time.Second-1)/time.Second)))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	// The client may be gone; there is nobody left to tell.
	_, _ = w.Write(body)
}
