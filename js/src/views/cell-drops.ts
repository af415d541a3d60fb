/** Takes cells that are dragged onto a chat, from JupyterLab's notebooks and by the browser's own drags. */

import { CELLS_MIME } from "../notebook-cells.ts";

/** The event of a drag in JupyterLab, whose names begin with "lm-". */
interface HostDrag extends MouseEvent {
  readonly mimeData?: { hasData(type: string): boolean; getData(type: string): unknown };
  readonly proposedAction?: string;
  dropAction?: string;
}

export interface CellDrops {
  /** Whether cells may be dropped now. */
  readonly enabled: () => boolean;
  /** Shows whether they would be taken here. */
  readonly over: (inside: boolean) => void;
  readonly drop: (cells: unknown) => void;
}

export function takeCells(target: HTMLElement, drops: CellDrops, signal: AbortSignal): void {
  const isOurs = (event: HostDrag): boolean =>
    event.target instanceof Node && target.contains(event.target)
      && event.mimeData?.hasData(CELLS_MIME) === true && drops.enabled();
  const on = (type: string, take: (event: HostDrag) => void): void => {
    // Before the notebook, which takes these events on their way down, and would move the cells.
    window.addEventListener(type, (event) => {
      const drag = event as HostDrag;
      if (!isOurs(drag)) return;
      event.preventDefault();
      event.stopPropagation();
      take(drag);
    }, { capture: true, signal });
  };
  on("lm-dragenter", () => { drops.over(true); });
  on("lm-dragleave", (event) => {
    if (!(event.relatedTarget instanceof Node && target.contains(event.relatedTarget))) drops.over(false);
  });
  on("lm-dragover", (event) => {
    drops.over(true);
    if (event.proposedAction !== undefined) event.dropAction = event.proposedAction;
  });
  on("lm-drop", (event) => {
    drops.over(false);
    if (event.proposedAction !== undefined) event.dropAction = event.proposedAction;
    drops.drop(event.mimeData?.getData(CELLS_MIME));
  });
}
