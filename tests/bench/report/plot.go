package report

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotWidth  = 860
	labelWidth = 330
	rightSpace = 70
	topSpace   = 46
	barHeight  = 16
	rowHeight  = 26
)

// SVG writes a bar for every row that compares times or speeds: how many times better than the base, on a logarithmic axis. Small lines across
// a bar mark A and B.
func (r Report) SVG(w io.Writer) error {
	var rows []Row
	for _, row := range r.Rows {
		if g := row.Gain(); row.Unit != "MiB" && !math.IsNaN(g) && !math.IsInf(g, 0) && g > 0 {
			rows = append(rows, row)
		}
	}
	a := axisOf(rows)
	height := topSpace + rowHeight*len(rows) + 14
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, height, plotWidth, height)
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	b.WriteString(`<text x="10" y="18" font-weight="bold" fill="#1f2328">How many times faster through pushproxy (right of 1 is faster; lines across: A and B)</text>` + "\n")
	for p := a.low; p <= a.high; p++ {
		v := math.Pow(2, float64(p))
		colour := "#d0d7de"
		if p == 0 {
			colour = "#1f2328"
		}
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s"/><text x="%.1f" y="%d" text-anchor="middle" fill="#59636e">%s</text>`+"\n",
			a.x(v), topSpace-6, a.x(v), height-10, colour, a.x(v), topSpace-10, figure(v))
	}
	for i, row := range rows {
		row.bar(&b, a, topSpace+i*rowHeight)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Row) bar(b *strings.Builder, a axis, y int) {
	gain := r.Gain()
	from, to := math.Min(a.x(1), a.x(gain)), math.Max(a.x(1), a.x(gain))
	colour := "#2da44e"
	if r.A != 0 && !r.met(r.A) {
		colour = "#cf222e"
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#1f2328">%s</text>`, labelWidth-8, y+barHeight-3, html.EscapeString(r.Name))
	fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, from, y, to-from, barHeight, colour)
	end := to
	for _, bound := range []float64{r.A, r.B} {
		if bound == 0 {
			continue
		}
		if !r.More {
			bound = 1 / bound
		}
		end = math.Max(end, a.x(bound))
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#1f2328" stroke-width="2"/>`, a.x(bound), y-2, a.x(bound), y+barHeight+2)
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#1f2328">%s×</text>`+"\n", end+6, y+barHeight-3, figure(gain))
}

// axis spans powers of two.
type axis struct{ low, high int }

func axisOf(rows []Row) axis {
	a := axis{-1, 1}
	for _, r := range rows {
		p := math.Log2(r.Gain())
		a.low, a.high = min(a.low, int(math.Floor(p))), max(a.high, int(math.Ceil(p)))
		for _, bound := range []float64{r.A, r.B} {
			if bound != 0 {
				p := math.Abs(math.Log2(bound))
				a.high = max(a.high, int(math.Ceil(p)))
			}
		}
	}
	return a
}

func (a axis) x(v float64) float64 {
	return labelWidth + (math.Log2(v)-float64(a.low))/float64(a.high-a.low)*(plotWidth-labelWidth-rightSpace)
}
