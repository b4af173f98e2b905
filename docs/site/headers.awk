# SPDX-License-Identifier: BSD-3-Clause
# Makes the lines in front of a header, which give formula, shapes, cost and source, its description, and that of its first
# type, if that has none of its own; and takes the instruction set's name out of attend's namespace.

# The first sentence of the description.
function first_sentence(    text) {
  text = description
  sub(/\n\n.*/, "", text)
  gsub(/\n/, " ", text)
  if (match(text, /[^ .]\. /)) text = substr(text, 1, RSTART)
  sub(/[.:]? *$/, ".", text)
  gsub(/&/, "\\&amp;", text)
  gsub(/</, "\\&lt;", text)
  gsub(/>/, "\\&gt;", text)
  gsub(/[*_#@]/, "\\\\&", text)
  return text
}

function describe(what) {
  return "/** " what "@brief " first_sentence() "\n\n@verbatim\n" description "@endverbatim\n*/\n"
}

BEGIN { in_front = 1 }
/^\/\/ SPDX-License-Identifier/ { next }
in_front && /^\/\// {
  sub(/^\/\/ ?/, "")
  description = description $0 "\n"
  next
}
in_front {
  in_front = 0
  if (description != "") printf "%s", describe("@file\n")
}
{ gsub(/::inline ATTEND_TARGET/, "") }

# What is private is left out.
/^ private:$/ { is_private = 1 }
/^};/ { is_private = 0 }
is_private { next }

# The lines of a template's head wait for the line that says what it is.
/^template </ || (waiting != "" && /^  requires/) { waiting = waiting $0 "\n"; next }
/^(struct|class) [a-z_]+.*\{/ && !has_comment && description != "" && !in_detail {
  printf "%s", describe("")
  description = ""
}
/^namespace detail/ { in_detail = 1 }
/^}  \/\/ namespace detail/ { in_detail = 0 }
{
  printf "%s", waiting
  waiting = ""
  print
  has_comment = /^\/\/\//
}
END { printf "%s", waiting }
