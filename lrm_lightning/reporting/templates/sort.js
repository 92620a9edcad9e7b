// Headings of a table of class "sortable" become buttons that sort its rows; without this script the
// table stands as it was written. Numbers sort as numbers, and what is missing stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const compare = (a, b) => parseFloat(a) - parseFloat(b) || a.localeCompare(b);
  headings.forEach((heading, column) => {
    const shown = (row) => {
      const cell = row.cells[column], value = cell.querySelector(".value") ?? cell.firstChild;
      return value.textContent.trim().replace("\u2212", "-");
    };
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows], before = heading.getAttribute("aria-sort");
      const isNumber = rows.some((row) => !isNaN(parseFloat(shown(row))));
      const rises = before ? before === "descending" : !isNumber;
      for (const each of headings) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", rises ? "ascending" : "descending");
      const missing = (row) => shown(row) === "\u2013";
      rows.sort((a, b) => missing(a) - missing(b) || (rises ? 1 : -1) * compare(shown(a), shown(b)));
      body.append(...rows);
    });
  });
}
