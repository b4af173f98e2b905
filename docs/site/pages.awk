# SPDX-License-Identifier: BSD-3-Clause
# Makes doxygen's Markdown of a page: headings get the names that links to them have elsewhere, links to pages and headings
# become references to those, which doxygen checks, and what doxygen does not read as other readers of Markdown do is
# written in HTML: code, whose spaces would not break, and bold text that begins or ends with code.

function slug(text) {
  text = tolower(text)
  gsub(/[^a-z0-9 _-]/, "", text)
  gsub(/ /, "-", text)
  return text
}

# The name of the page that a path leads to.
function name_of(path) {
  sub(/^.*\//, "", path)
  sub(/\.md$/, "", path)
  return "page_" tolower(path)
}

# [text](path#heading), [text](header), or ![text](picture).
function link_of(link, is_picture,    text, target, path, heading) {
  text = substr(link, 2, index(link, "](") - 2)
  target = substr(link, index(link, "](") + 2)
  sub(/\)$/, "", target)
  if (is_picture) {
    sub(/^.*\//, "", target)
  } else if (target ~ /^([^#:]*\.md)?(#.*)?$/) {
    path = heading = target
    sub(/#.*$/, "", path)
    if (!sub(/^[^#]*#/, "_", heading)) heading = ""
    target = "@ref " (path == "" ? page : name_of(path)) heading
  } else if (target !~ /attend\/(engine|simd|call)\// && sub(/^(\.\.\/)?include\/attend\//, "", target)) {
    target = "@ref attend/" target
  } else if (target !~ /^https?:/) {
    # A file of the project that is not on the site.
    return "<code>" text "</code>"
  }
  return "[" text "](" target ")"
}

function code_of(code) {
  code = substr(code, 2, length(code) - 2)
  # A bar within a table is written as \|, which doxygen understands in HTML.
  gsub(/\\\|/, "\001", code)
  gsub(/\\/, "\\\\", code)
  gsub(/@/, "\\@", code)
  gsub(/&/, "\\&amp;", code)
  gsub(/</, "\\&lt;", code)
  gsub(/>/, "\\&gt;", code)
  gsub(/\*/, "\\*", code)
  gsub(/--/, "\\--", code)
  gsub(/\001/, "\\|", code)
  return "<code>" code "</code>"
}

# A paragraph, or a row of a table.
function converted(text,    done, found, bold) {
  done = ""
  bold = 0
  while (match(text, /`[^`]*`|\[[^][`]*\]\([^()]*\)|\*\*/)) {
    found = substr(text, RSTART, RLENGTH)
    done = done substr(text, 1, RSTART - 1)
    if (found ~ /^`/) done = done code_of(found)
    else if (found ~ /^\[/) done = done link_of(found, substr(text, RSTART - 1, 1) == "!")
    else {
      bold = !bold
      done = done (bold ? "<b>" : "</b>")
    }
    text = substr(text, RSTART + RLENGTH)
  }
  return done text
}

function end_paragraph() {
  if (paragraph != "") printf "%s", converted(paragraph)
  paragraph = ""
}

FNR == 1 { page = name_of(FILENAME) }
/^<!-- cpp$/ { is_hidden = 1 }
is_hidden { if ($0 == "-->") is_hidden = 0; next }
/^```/ { end_paragraph(); in_code = !in_code; sub(/c\+\+$/, "cpp"); print; next }
in_code { print; next }
/^#+ / {
  end_paragraph()
  text = $0
  sub(/^#+ /, "", text)
  text = slug(text)
  # A heading that was there before has a number.
  if (headings[text]++) text = text "-" headings[text] - 1
  print $0 " {#" page (/^# / ? "" : "_" text) "}"
  next
}
/^$/ || /^\|/ { end_paragraph(); print converted($0); next }
{ paragraph = paragraph $0 "\n" }
END { end_paragraph() }
