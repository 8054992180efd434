/** Access: who may? Users, people of the single sign-on, keys of programs, services. */
import { Keys } from "../access/keys.tsx";
import { People } from "../access/people.tsx";
import { Services } from "../access/services.tsx";
import { Users } from "../access/users.tsx";
import { Tabs } from "../parts/tabs.tsx";
import "../style/admin.css";

export default function Access() {
  return (
    <div class="stack">
      <h1>Access</h1>
      <Tabs
        label="Access"
        tabs={[
          { name: "users", label: "Users", content: () => <Users /> },
          { name: "people", label: "Single sign-on", content: () => <People /> },
          { name: "keys", label: "API keys", content: () => <Keys /> },
          { name: "services", label: "Services", content: () => <Services /> },
        ]}
      />
    </div>
  );
}
