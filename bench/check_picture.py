# SPDX-License-Identifier: BSD-3-Clause
"""Checks a page or picture that the benchmarks wrote: check_picture.py FILE [TEXT...]

It is well-formed; it has each of these texts; nothing in it is fetched from elsewhere; and in each picture the texts
lie within the paper and apart from each other.
"""

import itertools
import re
import sys
import xml.etree.ElementTree

SVG = "{http://www.w3.org/2000/svg}"
# Of common fonts at 12 pixels, for letters on average.
CHARACTER_WIDTH = 6.2
ASCENT, DESCENT = 9, 2


def text_boxes(picture):
    for text in picture.iter(SVG + "text"):
        if text.text is None:
            continue
        width = CHARACTER_WIDTH * len(text.text)
        begin = float(text.get("x")) - {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "start")] * width
        baseline = float(text.get("y"))
        yield text.text, begin, baseline - ASCENT, begin + width, baseline + DESCENT


def defects_of(picture):
    _, _, width, height = map(float, picture.get("viewBox").split())
    boxes = list(text_boxes(picture))
    if not boxes:
        yield "a picture without texts"
    for text, left, top, right, bottom in boxes:
        if left < 0 or top < 0 or right > width or bottom > height:
            yield f"'{text}' is not within the picture"
    for (a, left, top, right, bottom), (b, l, t, r, u) in itertools.combinations(boxes, 2):
        if left < r and l < right and top < u and t < bottom:
            yield f"'{a}' lies on '{b}'"


def check(path, texts):
    with open(path, encoding="utf-8") as file:
        content = file.read()
    root = xml.etree.ElementTree.fromstring(content)
    words = " ".join(root.itertext())
    defects = [f"'{text}' is missing" for text in texts if text not in words]
    outer = [root] if root.tag == SVG + "svg" else [e for e in root.iter(SVG + "svg") if e.get("class") == "chart"]
    if not outer:
        defects.append("there is no picture")
    for picture in outer:
        defects += defects_of(picture)
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if name in ("script", "link", "img", "iframe") or any(re.fullmatch("(.*})?(href|src)", a) for a in element.attrib):
            defects.append(f"<{name}> may be fetched from elsewhere")
    if re.search(r"url\(|@import", content):
        defects.append("the style may be fetched from elsewhere")
    return defects


if __name__ == "__main__":
    found = check(sys.argv[1], sys.argv[2:])
    for defect in found:
        print(f"{sys.argv[1]}: {defect}")
    sys.exit(bool(found))
