//! Tables of the console: each cell carries the heading of its column, so that a narrow screen, which has no room for a
//! head, can write it beside the value.
//! Not here: what stands in the cells. They are HTML, escaped by whoever made them.

use super::html::escape;

/// Heading and class of a column's cells.
pub type Column = (&'static str, &'static str);

pub fn table(columns: &[Column], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: String = columns.iter().map(|(title, class)| format!("<th class=\"{class}\">{title}</th>")).collect();
    let rows: String = rows.map(|cells| row(columns, &cells)).collect();
    format!("<div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>")
}

fn row(columns: &[Column], cells: &[String]) -> String {
    let cell = |((title, class), html): (&Column, &String)| {
        format!("<td class=\"{class}\" data-label=\"{}\">{html}</td>", escape(title))
    };
    format!("<tr>{}</tr>", columns.iter().zip(cells).map(cell).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cell_knows_its_column() {
        let made =
            table(&[("Date", "nowrap"), ("", "action")], [vec!["1".to_owned(), "<b>2</b>".to_owned()]].into_iter());
        let row = "<tr><td class=\"nowrap\" data-label=\"Date\">1</td><td class=\"action\" data-label=\"\"><b>2</b></td></tr>";
        assert!(made.contains(row) && made.contains("<th class=\"nowrap\">Date</th>"), "{made}");
    }
}
